import { setTimeout as sleep } from 'node:timers/promises';
import { futureCall } from '../contenders/future-call.mjs';
import { graphileWorkerTuned } from '../contenders/graphile-worker.mjs';
import { pgBoss } from '../contenders/pg-boss.mjs';
import { atMost } from '../suite/goals.mjs';

/** @import { Scenario } from '../types.js' */

const SHORT = '300,000 calls';
const LONG = '1,000,000 calls';
const EVERY = 50;
const MB = 2 ** 20;

/** @type {Scenario} */
export const memory = {
  name: 'memory',
  title: 'resident memory while no-op calls are worked off',
  contenders: [futureCall, graphileWorkerTuned, pgBoss],
  variants: [{ name: SHORT }, { name: LONG, only: [futureCall.id] }],
  metrics: {
    early: { label: 'after 20,000', unit: 'MB', better: 'lower' },
    growth: { label: 'most, above that', unit: 'MB', better: 'lower' },
    late: { label: 'second half above first', unit: 'MB', better: 'lower' },
  },

  async measure(lab, contender, database, variant) {
    const count = variant === SHORT ? lab.size(300_000, 30_000) : lab.size(1_000_000, 60_000);
    const early = lab.size(20_000, 2_000);
    await contender.prepare(database, ['noop']);
    await contender.fill(database, { handler: 'noop', count, due: `now() - interval '1 second'` });
    await lab.settle(database);
    const executor = lab.executor(contender, { url: database.url, handlers: { noop: {} } });
    await executor.start();
    /** @type {{ count: number, megabytes: number }[]} */
    const samples = [];
    while (executor.count < count && executor.isAlive) {
      samples.push({ megabytes: (await executor.memory()) / MB, count: executor.count });
      lab.progress(`${executor.count.toLocaleString('en')} of ${count.toLocaleString('en')}`);
      await sleep(EVERY);
    }
    const most = (from, to) =>
      Math.max(
        ...samples
          .filter((sample) => sample.count >= from && sample.count <= to)
          .map(({ megabytes }) => megabytes),
      );
    const first = samples.find((sample) => sample.count >= early)?.megabytes;
    return {
      early: first,
      growth: most(early, count) - first,
      late: most(count / 2, count) - most(early, count / 2),
    };
  },

  goals: (results) => [
    atMost('growth over 300,000', 80, 'MB', results(futureCall.id, SHORT)?.growth),
    // Flat: within what garbage collection leaves to chance.
    atMost('second half above the first, over 1,000,000', 20, 'MB', results(futureCall.id, LONG)?.late),
  ],
  plot: { metric: 'growth' },
};
