import pg from 'pg';
import { futureCall } from '../contenders/future-call.mjs';
import { graphileWorkerTuned } from '../contenders/graphile-worker.mjs';
import { pgBoss } from '../contenders/pg-boss.mjs';
import { now } from '../suite/clock.mjs';
import { atLeast } from '../suite/goals.mjs';
import { workOff } from '../suite/work-off.mjs';

/** @import { Scenario } from '../types.js' */

const SPREAD = 'due over the last hour';
const INSTANT = 'due at one instant';
/** Who slows down under it must not take all day: they get fewer, which makes it easier for them. */
const SHARE = { [graphileWorkerTuned.id]: 0.25, [pgBoss.id]: 0.25 };

/** @type {Scenario} */
export const pinned = {
  name: 'pinned',
  title: '400,000 no-op calls while a long transaction holds back vacuum',
  contenders: [futureCall, graphileWorkerTuned, pgBoss],
  variants: [{ name: SPREAD }, { name: INSTANT }],
  metrics: {
    rate: { label: 'calls/s', better: 'higher' },
    kept: { label: 'last quarter / first', better: 'higher', digits: 2 },
  },

  async measure(lab, contender, database, variant) {
    const count = lab.size(400_000, 8_000) * (SHARE[contender.id] ?? 1);
    const due =
      variant === SPREAD ? `now() - i * interval '1 hour' / ${count}` : `now() - interval '1 second'`;
    await contender.prepare(database, ['noop']);
    await contender.fill(database, { handler: 'noop', count, due });
    await lab.settle(database);

    const holder = new pg.Client({ connectionString: database.url });
    await holder.connect();
    try {
      await holder.query('begin isolation level repeatable read; select count(*) from pg_class');
      const reached = quarters(count);
      const { rate } = await workOff(lab, contender, database, { count, onProgress: reached.note });
      return { rate, kept: reached.lastByFirst() };
    } finally {
      await holder.end();
    }
  },

  goals: (results) =>
    [SPREAD, INSTANT].map((variant) =>
      atLeast(`${variant}: ours, last quarter / first`, 0.7, '×', results(futureCall.id, variant)?.kept),
    ),
  plot: { metric: 'kept' },
};

/** The speed of the last quarter by that of the first, from the times at which counts were seen. @param {number} total */
function quarters(total) {
  /** @type {[number, number][]} */
  const seen = [];
  const between = (from, to) => {
    const inside = seen.filter(([count]) => count >= from * total && count <= to * total);
    const [firstCount, firstAt] = inside[0] ?? [0, 0];
    const [lastCount, lastAt] = inside.at(-1) ?? [0, 0];
    return (lastCount - firstCount) / (lastAt - firstAt);
  };
  return {
    note: (count) => {
      if (count > 0) seen.push([count, now()]);
    },
    lastByFirst: () => between(0.75, 1) / between(0, 0.25),
  };
}
