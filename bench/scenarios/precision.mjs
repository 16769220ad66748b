import { bareTimer } from '../contenders/bare.mjs';
import { bullmq } from '../contenders/bullmq.mjs';
import { futureCall } from '../contenders/future-call.mjs';
import { graphileWorker } from '../contenders/graphile-worker.mjs';
import { pgBossNotified } from '../contenders/pg-boss.mjs';
import { toWall } from '../suite/clock.mjs';
import { atLeast, atMost } from '../suite/goals.mjs';
import { percentile, ratio } from '../suite/stats.mjs';
import { started } from '../suite/work-off.mjs';

/** @import { Scenario } from '../types.js' */

/** Time to insert the calls and to boot, in seconds. */
const AHEAD = 8;
const SECONDS = 10;

/** @type {Scenario} */
export const precision = {
  name: 'precision',
  title: `2,000 calls due at random moments within ${SECONDS} seconds: how late they start`,
  contenders: [futureCall, graphileWorker, pgBossNotified, bullmq],
  metrics: {
    median: { label: 'median', unit: 'ms', better: 'lower', digits: 1 },
    p99: { label: 'p99', unit: 'ms', better: 'lower', digits: 1 },
    earliest: { label: 'earliest', unit: 'ms', digits: 2 },
    floor: { label: 'p99 of bare timers meanwhile', unit: 'ms', digits: 1 },
  },

  async measure(lab, contender, database) {
    const count = lab.size(2_000, 200);
    const begin = Date.now() / 1_000 + lab.size(AHEAD, 5);
    const due = `to_timestamp(${begin}) + random() * interval '${lab.size(SECONDS, 2)} seconds'`;
    const measured = [
      { contender, handler: 'ontime', count },
      // In the same seconds: what the machine does to any timer.
      { contender: bareTimer, handler: 'bare', count: count / 4 },
    ];
    for (const { contender: who, handler, count: many } of measured) {
      await who.prepare(database, [handler]);
      await who.fill(database, { handler, count: many, due });
    }
    const executors = measured.map(({ contender: who, handler }) =>
      lab.executor(who, { url: database.url, handlers: { [handler]: { record: true } } }),
    );
    await Promise.all(executors.map((executor) => executor.start()));
    if (Date.now() / 1_000 > begin) throw new Error(`${contender.label} was not ready in time.`);
    await started(lab, executors, count + count / 4);
    const [late, floor] = await Promise.all(
      executors.map(async (executor) => lateness(await executor.report())),
    );
    return {
      median: percentile(late, 0.5),
      p99: percentile(late, 0.99),
      earliest: Math.min(...late),
      floor: percentile(floor, 0.99),
    };
  },

  goals(results) {
    const ours = results(futureCall.id);
    return [
      atMost('p99', 15, 'ms', ours?.p99),
      atMost(
        'or, on a noisy machine: p99 / that of bare timers in the same seconds',
        2,
        '×',
        ratio(ours?.p99, ours?.floor),
      ),
      atLeast('never early', 0, 'ms', ours?.earliest),
    ];
  },
  plot: { metric: 'p99' },
};

/** @param {{ samples: [number, number][] }} report */
const lateness = ({ samples }) => samples.map(([dueAt, startedAt]) => toWall(startedAt) - dueAt);
