import { bareInsert } from '../contenders/bare.mjs';
import { bullmq } from '../contenders/bullmq.mjs';
import { futureCall } from '../contenders/future-call.mjs';
import { graphileWorker, graphileWorkerTuned } from '../contenders/graphile-worker.mjs';
import { pgBossNotified } from '../contenders/pg-boss.mjs';
import { atMost } from '../suite/goals.mjs';
import { percentile, ratio } from '../suite/stats.mjs';
import { started } from '../suite/work-off.mjs';

/** @import { Scenario } from '../types.js' */

const RATE = 50;
/** The first ones find cold caches and unprepared statements everywhere. */
const WARM_UP = 50;

/** @type {Scenario} */
export const latency = {
  name: 'latency',
  title: `from scheduling a call that is due now to its start in another process, ${RATE} a second`,
  contenders: [futureCall, graphileWorker, graphileWorkerTuned, pgBossNotified, bullmq, bareInsert],
  metrics: {
    median: { label: 'median', unit: 'ms', better: 'lower', digits: 2 },
    p99: { label: 'p99', unit: 'ms', better: 'lower', digits: 2 },
  },

  async measure(lab, contender, database) {
    const count = WARM_UP + lab.size(500, 100);
    await contender.prepare(database, ['soon']);
    const executor = lab.executor(contender, { url: database.url, handlers: { soon: { record: true } } });
    await executor.start();
    const scheduler = await lab.scheduler(contender, { url: database.url, handlers: ['soon'] });
    await scheduler.paced({ handler: 'soon', count, rate: RATE });
    await started(lab, [executor], count);
    const { samples } = await executor.report();
    const latencies = samples
      .toSorted(([a], [b]) => a - b)
      .slice(WARM_UP)
      .map(([scheduledAt, startedAt]) => startedAt - scheduledAt);
    return { median: percentile(latencies, 0.5), p99: percentile(latencies, 0.99) };
  },

  goals(results) {
    const ours = results(futureCall.id);
    const theirs = results(graphileWorker.id);
    return [
      atMost("median: ours / graphile-worker's", 1, '×', ratio(ours?.median, theirs?.median)),
      atMost("p99: ours / graphile-worker's", 1.5, '×', ratio(ours?.p99, theirs?.p99)),
      atMost(
        'median: ours / a bare INSERT and NOTIFY',
        2.2,
        '×',
        ratio(ours?.median, results(bareInsert.id)?.median),
      ),
    ];
  },
  plot: { metric: 'median' },
};
