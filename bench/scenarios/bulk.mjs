import { bareInsert } from '../contenders/bare.mjs';
import { bullmq } from '../contenders/bullmq.mjs';
import { futureCall } from '../contenders/future-call.mjs';
import { graphileWorker } from '../contenders/graphile-worker.mjs';
import { pgBossDefault } from '../contenders/pg-boss.mjs';
import { atLeast } from '../suite/goals.mjs';
import { ratio } from '../suite/stats.mjs';

/** @import { Scenario } from '../types.js' */

const SIZE = 5_000;
const SHARE = { [bullmq.id]: 0.1 };

/** @type {Scenario} */
export const bulk = {
  name: 'bulk',
  title: `scheduling 100,000 calls, ${SIZE.toLocaleString('en')} at a time`,
  contenders: [futureCall, graphileWorker, pgBossDefault, bullmq, bareInsert],
  metrics: { rate: { label: 'calls/s', better: 'higher' } },

  async measure(lab, contender, database) {
    const count = lab.size(100_000, 10_000) * (SHARE[contender.id] ?? 1);
    const size = Math.min(SIZE, count);
    await contender.prepare(database, ['later']);
    const scheduler = await lab.scheduler(contender, { url: database.url, handlers: ['later'] });
    await scheduler.bulk({ handler: 'later', count: size, size });
    const milliseconds = await scheduler.bulk({ handler: 'later', count, size });
    return { rate: milliseconds && (count / milliseconds) * 1_000 };
  },

  goals(results) {
    const rate = (contender) => results(contender.id)?.rate;
    return [
      atLeast("callMany / graphile-worker's addJobs", 1, '×', ratio(rate(futureCall), rate(graphileWorker))),
      atLeast("callMany / pg-boss' insert", 1, '×', ratio(rate(futureCall), rate(pgBossDefault))),
    ];
  },
  plot: { metric: 'rate' },
};
