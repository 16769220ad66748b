import { bullmq } from '../contenders/bullmq.mjs';
import { futureCall } from '../contenders/future-call.mjs';
import { graphileWorker, graphileWorkerTuned } from '../contenders/graphile-worker.mjs';
import { pgBoss } from '../contenders/pg-boss.mjs';
import { sqlLimit, sqlLimitUpdate } from '../contenders/sql-limit.mjs';
import { atLeast } from '../suite/goals.mjs';
import { ratio } from '../suite/stats.mjs';
import { workOff } from '../suite/work-off.mjs';

/** @import { Scenario } from '../types.js' */

/** Who is slow gets fewer: the rate is what counts, and the whole run must not take an hour. */
const SHARE = { [bullmq.id]: 0.03, [graphileWorker.id]: 0.2 };

/** @type {Scenario} */
export const drain = {
  name: 'drain',
  title: '100,000 due no-op calls, one process',
  contenders: [futureCall, graphileWorkerTuned, graphileWorker, pgBoss, bullmq, sqlLimit, sqlLimitUpdate],
  metrics: {
    rate: { label: 'calls/s', better: 'higher' },
    cpu: { label: 'CPU per call', unit: 'µs', better: 'lower', digits: 1 },
  },

  async measure(lab, contender, database) {
    const count = lab.size(100_000, 5_000) * (SHARE[contender.id] ?? 1);
    await contender.prepare(database, ['noop']);
    await contender.fill(database, { handler: 'noop', count, due: `now() - interval '1 second'` });
    await lab.settle(database);
    if (contender.workOff) {
      const milliseconds = await contender.workOff(database);
      return { rate: (count / milliseconds) * 1_000 };
    }
    const { rate, reports } = await workOff(lab, contender, database, { count });
    return { rate, cpu: reports[0].cpu / count };
  },

  goals(results) {
    const rate = (contender) => results(contender.id)?.rate;
    return [
      atLeast('ours / graphile-worker, tuned', 3, '×', ratio(rate(futureCall), rate(graphileWorkerTuned))),
      atLeast('ours / the same as one SQL loop', 0.7, '×', ratio(rate(futureCall), rate(sqlLimit))),
    ];
  },
  plot: { metric: 'rate' },
};
