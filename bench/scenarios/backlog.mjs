import { setTimeout as sleep } from 'node:timers/promises';
import { futureCall } from '../contenders/future-call.mjs';
import { graphileWorker } from '../contenders/graphile-worker.mjs';
import { pgBossNotified } from '../contenders/pg-boss.mjs';
import { atMost } from '../suite/goals.mjs';
import { percentile, ratio } from '../suite/stats.mjs';

/** @import { Scenario } from '../types.js' */

const ALONE = 'alone';
const LIMITED = 'beside it, limited to 1';
const SHARED = 'beside it, sharing 10 slots';
const RATE = 100;
const WORK = 5;
const WARM_UP = 50;

/** @type {Scenario} */
export const backlog = {
  name: 'backlog',
  title: `200,000 due calls of one handler (${WORK} ms), and another that gets a call every ${1_000 / RATE} ms: how late it starts`,
  contenders: [futureCall, graphileWorker, pgBossNotified],
  variants: [{ name: ALONE }, { name: LIMITED, only: [futureCall.id] }, { name: SHARED }],
  metrics: {
    median: { label: 'median', unit: 'ms', better: 'lower', digits: 1 },
    p99: { label: 'p99', unit: 'ms', better: 'lower', digits: 1 },
    unstarted: { label: 'not started', unit: '%', better: 'lower' },
  },

  async measure(lab, contender, database, variant) {
    const count = WARM_UP + lab.size(1_000, 100);
    await contender.prepare(database, ['slow', 'quick']);
    if (variant !== ALONE) {
      await contender.fill(database, {
        handler: 'slow',
        count: lab.size(200_000, 2_000),
        due: `now() - interval '1 minute'`,
      });
    }
    await lab.settle(database);
    const executor = lab.executor(contender, {
      url: database.url,
      handlers: { slow: { work: WORK }, quick: { record: true } },
      concurrency: 10,
      options: variant === LIMITED ? { limits: { slow: 1 } } : {},
    });
    await executor.start();
    const scheduler = await lab.scheduler(contender, { url: database.url, handlers: ['slow', 'quick'] });
    await scheduler.paced({ handler: 'quick', count, rate: RATE });
    await sleep(1_000);
    const { samples } = await executor.report();
    // What has not started is later than what has: its lateness so far is the least that it can be.
    const late = samples
      .toSorted(([a], [b]) => a - b)
      .slice(WARM_UP)
      .map(([scheduledAt, startedAt]) => startedAt - scheduledAt);
    const missing = count - samples.length;
    for (let i = 0; i < missing; i++) late.push(1_000 + ((missing - i) * 1_000) / RATE);
    return {
      median: percentile(late, 0.5),
      p99: percentile(late, 0.99),
      unstarted: (missing / count) * 100,
    };
  },

  goals(results) {
    const p99 = (variant) => results(futureCall.id, variant)?.p99;
    return [atMost('p99: beside a handler limited to 1 / alone', 2, '×', ratio(p99(LIMITED), p99(ALONE)))];
  },
  plot: { metric: 'p99' },
};
