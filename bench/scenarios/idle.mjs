import { setTimeout as sleep } from 'node:timers/promises';
import { bullmq } from '../contenders/bullmq.mjs';
import { futureCall } from '../contenders/future-call.mjs';
import { graphileWorker } from '../contenders/graphile-worker.mjs';
import { pgBossDefault } from '../contenders/pg-boss.mjs';
import { atMost } from '../suite/goals.mjs';
import { ratio } from '../suite/stats.mjs';
import { countStatements } from '../suite/statements.mjs';

/** @import { Scenario } from '../types.js' */

const ONE = 'one process';
const TEN = 'ten processes';
/** Until everybody has nothing more to do after booting, in seconds. */
const SETTLE = 15;

/** @type {Scenario} */
export const idle = {
  name: 'idle',
  title: '100 handlers, 200,000 calls due tomorrow, nothing to do: statements per second',
  contenders: [futureCall, graphileWorker, pgBossDefault, bullmq],
  // The peers' connections of ten processes are more than a server takes by default.
  variants: [{ name: ONE }, { name: TEN, only: [futureCall.id] }],
  metrics: { statements: { label: 'statements/s', better: 'lower', digits: 2 } },
  // It counts; it does not time.
  runs: 1,

  async measure(lab, contender, database, variant) {
    const seconds = lab.size(100, 20);
    const names = Array.from({ length: 100 }, (_, i) => `handler${i}`);
    // Enqueueing one by one is not what this is about.
    const count = lab.size(contender === bullmq ? 20_000 : 200_000, 2_000);
    await contender.prepare(database, names);
    await contender.fill(database, { handler: names[0], count, due: `now() + interval '1 day'` });
    await lab.settle(database);
    const executors = Array.from({ length: variant === ONE ? 1 : 10 }, () =>
      lab.executor(contender, {
        url: database.url,
        handlers: Object.fromEntries(names.map((name) => [name, {}])),
      }),
    );
    const statements = await countStatements(lab, database);
    await Promise.all(executors.map((executor) => executor.start()));
    lab.progress('settling');
    await sleep(lab.size(SETTLE, 5) * 1_000);
    lab.progress('counting');
    const before = await statements.count();
    await sleep(seconds * 1_000);
    return { statements: ((await statements.count()) - before) / seconds };
  },

  goals(results) {
    const ours = (variant) => results(futureCall.id, variant)?.statements;
    return [
      // Where the window begins and ends makes a difference of one statement.
      atMost('one process', 0.51, 'statements/s', ours(ONE)),
      atMost('ten processes / one', 10.2, '×', ratio(ours(TEN), ours(ONE))),
    ];
  },
  plot: { metric: 'statements' },
};
