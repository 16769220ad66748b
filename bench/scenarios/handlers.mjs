import { futureCall } from '../contenders/future-call.mjs';
import { graphileWorkerTuned } from '../contenders/graphile-worker.mjs';
import { pgBoss } from '../contenders/pg-boss.mjs';
import { workOff } from '../suite/work-off.mjs';

/** @import { Scenario } from '../types.js' */

const SINGLETON = 'one instance';
const REQUEST = 'request-scoped';

/** @type {Scenario} */
export const handlers = {
  name: 'handlers',
  title: 'what a call costs its process: CPU from claim to completion',
  contenders: [futureCall, graphileWorkerTuned, pgBoss],
  variants: [{ name: SINGLETON }, { name: REQUEST, only: [futureCall.id] }],
  metrics: {
    cpu: { label: 'CPU per call', unit: 'µs', better: 'lower', digits: 1 },
    rate: { label: 'calls/s', better: 'higher' },
  },

  async measure(lab, contender, database, variant) {
    const count = lab.size(100_000, 5_000);
    await contender.prepare(database, ['noop']);
    await contender.fill(database, { handler: 'noop', count, due: `now() - interval '1 second'` });
    await lab.settle(database);
    const options = variant === REQUEST ? { scope: 'REQUEST' } : {};
    const { rate, reports } = await workOff(lab, contender, database, { count, options });
    return { cpu: reports[0].cpu / count, rate };
  },
  plot: { metric: 'cpu' },
};
