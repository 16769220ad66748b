import { bullmq } from '../contenders/bullmq.mjs';
import { futureCall } from '../contenders/future-call.mjs';
import { graphileWorker, graphileWorkerTuned } from '../contenders/graphile-worker.mjs';
import { pgBossNotified } from '../contenders/pg-boss.mjs';
import { toWall } from '../suite/clock.mjs';
import { atMost } from '../suite/goals.mjs';
import { percentile } from '../suite/stats.mjs';
import { started } from '../suite/work-off.mjs';

/** @import { Scenario } from '../types.js' */

const PROCESSES = 3;
const CONCURRENCY = 50;
const WORK = 5;
/** Time to insert the calls and to boot, in seconds. */
const AHEAD = 20;
/** Who is slow gets fewer; the times are compared with the ideal for as many. */
const SHARE = { [bullmq.id]: 0.1 };

/** @type {Scenario} */
export const burst = {
  name: 'burst',
  title: `10,000 calls due at one instant, handlers of ${WORK} ms, ${CONCURRENCY} at a time in ${PROCESSES} processes`,
  contenders: [futureCall, graphileWorker, graphileWorkerTuned, pgBossNotified, bullmq],
  metrics: {
    first: { label: 'first start', unit: 'ms', better: 'lower', digits: 1 },
    last: { label: 'last start', unit: 'ms', better: 'lower' },
    factor: { label: 'times the ideal', better: 'lower', digits: 2 },
  },

  async measure(lab, contender, database) {
    const count = lab.size(10_000, 500) * (SHARE[contender.id] ?? 1);
    const dueAt = Math.ceil(Date.now() + lab.size(AHEAD, 10) * 1_000);
    await contender.prepare(database, ['burst']);
    await contender.fill(database, { handler: 'burst', count, due: `to_timestamp(${dueAt / 1_000})` });
    await lab.settle(database);
    const executors = Array.from({ length: PROCESSES }, () =>
      lab.executor(contender, {
        url: database.url,
        handlers: { burst: { work: WORK, record: true } },
        concurrency: CONCURRENCY,
      }),
    );
    await Promise.all(executors.map((executor) => executor.start()));
    if (Date.now() > dueAt) throw new Error(`${contender.label} was not ready in time.`);
    await started(lab, executors, count);
    const reports = await Promise.all(executors.map((executor) => executor.report()));
    const late = reports.flatMap(({ samples }) => samples.map(([, startedAt]) => toWall(startedAt) - dueAt));
    const last = percentile(late, 1);
    const ideal = (count / (PROCESSES * CONCURRENCY)) * WORK;
    return { first: percentile(late, 0), last, factor: last / ideal };
  },

  goals: (results) => [atMost('last start: ours, times the ideal', 2, '×', results(futureCall.id)?.factor)],
  plot: { metric: 'factor' },
};
