import { futureCall } from '../contenders/future-call.mjs';
import { graphileWorkerTuned } from '../contenders/graphile-worker.mjs';
import { pgBoss } from '../contenders/pg-boss.mjs';
import { atLeast } from '../suite/goals.mjs';
import { ratio } from '../suite/stats.mjs';
import { workOff } from '../suite/work-off.mjs';

/** @import { Scenario } from '../types.js' */

const NONE = 'none pending';
const SOME = '100,000 pending';
const MANY = '3,000,000 pending';

/** @type {Scenario} */
export const pending = {
  name: 'pending',
  title: '20,000 due no-op calls beside pending ones',
  contenders: [futureCall, graphileWorkerTuned, pgBoss],
  // Filling three million through pg-boss' API takes longer than everything else.
  variants: [{ name: NONE }, { name: SOME }, { name: MANY, only: [futureCall.id, graphileWorkerTuned.id] }],
  metrics: { rate: { label: 'calls/s', better: 'higher' } },

  async measure(lab, contender, database, variant) {
    const count = lab.size(20_000, 2_000);
    const beside = { [NONE]: 0, [SOME]: lab.size(100_000, 2_000), [MANY]: lab.size(3_000_000, 20_000) }[
      variant
    ];
    await contender.prepare(database, ['noop']);
    await contender.fill(database, {
      handler: 'noop',
      count: beside,
      due: `now() + interval '1 day' + random() * interval '1 day'`,
    });
    await contender.fill(database, { handler: 'noop', count, due: `now() - interval '1 second'` });
    await lab.settle(database);
    // Until the last start: looking whether anything is left takes long beside millions.
    const { startRate } = await workOff(lab, contender, database, { count });
    return { rate: startRate };
  },

  goals(results) {
    const rate = (variant) => results(futureCall.id, variant)?.rate;
    return [SOME, MANY].map((variant) =>
      atLeast(`ours: ${variant} / none`, 0.8, '×', ratio(rate(variant), rate(NONE))),
    );
  },
  plot: { metric: 'rate' },
};
