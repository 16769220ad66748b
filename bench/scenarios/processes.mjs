import { setTimeout as sleep } from 'node:timers/promises';
import { futureCall } from '../contenders/future-call.mjs';
import { graphileWorkerTuned } from '../contenders/graphile-worker.mjs';
import { pgBoss } from '../contenders/pg-boss.mjs';
import { atLeast } from '../suite/goals.mjs';
import { ratio } from '../suite/stats.mjs';
import { workOff } from '../suite/work-off.mjs';

/** @import { Scenario } from '../types.js' */

/** Time to insert the calls and to boot, in seconds. */
const AHEAD = 14;

/** @type {Scenario} */
export const processes = {
  name: 'processes',
  title: '100,000 due no-op calls, several processes',
  contenders: [futureCall, graphileWorkerTuned, pgBoss],
  variants: [{ name: '2 processes' }, { name: '4 processes' }],
  metrics: { rate: { label: 'calls/s', better: 'higher' } },

  async measure(lab, contender, database, variant) {
    const count = lab.size(100_000, 5_000);
    const begin = Date.now() + lab.size(AHEAD, 8) * 1_000;
    await contender.prepare(database, ['noop']);
    await contender.fill(database, { handler: 'noop', count, due: `to_timestamp(${begin / 1_000})` });
    await lab.settle(database);
    const scheduler = await lab.scheduler(contender, { url: database.url, handlers: ['noop'] });
    const { rate } = await workOff(lab, contender, database, {
      count: count + 1,
      processes: Number.parseInt(variant),
      async ready() {
        if (Date.now() > begin) throw new Error(`${contender.label} was not ready in time.`);
        await sleep(begin - Date.now());
        // One more, due now: whoever listens need not wait for its poll.
        await scheduler.bulk({ handler: 'noop', count: 1, size: 1 });
      },
    });
    return { rate };
  },

  goals(results) {
    const rate = (contender, variant) => results(contender.id, variant)?.rate;
    const compare = (variant) =>
      atLeast(
        `${variant}: ours / graphile-worker, tuned`,
        2,
        '×',
        ratio(rate(futureCall, variant), rate(graphileWorkerTuned, variant)),
      );
    return [
      compare('2 processes'),
      compare('4 processes'),
      atLeast(
        'ours with 4 processes / with 2',
        1,
        '×',
        ratio(rate(futureCall, '4 processes'), rate(futureCall, '2 processes')),
      ),
    ];
  },
  plot: { metric: 'rate' },
};
