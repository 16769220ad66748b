import { Logger, makeWorkerUtils, run, runMigrations } from 'graphile-worker';

/** @import { Contender } from '../types.js' */

const logger = new Logger(() => (level, message) => {
  if (level === 'error' || level === 'warning') console.error(`graphile-worker: ${message}`);
});

/**
 * @param {string} id
 * @param {string} label
 * @param {string} about
 * @param {object} settings
 * @returns {Contender}
 */
const contender = (id, label, about, settings) => ({
  id,
  label,
  about,

  async prepare({ url }) {
    await runMigrations({ connectionString: url, logger });
  },

  async fill({ client }, { handler, count, due }) {
    // In chunks: `add_jobs` takes an array, and a value has 1 GB at most.
    for (let from = 1; from <= count; from += 100_000) {
      await client.query(
        `select count(*) from graphile_worker.add_jobs(array(
           select row($1, json_build_object('at', extract(epoch from due) * 1000), null, due, null, null, null, null)
             ::graphile_worker.job_spec
           from (select date_trunc('milliseconds', ${due}) as due from generate_series($2::int, $3::int) i) d))`,
        [handler, from, Math.min(count, from + 99_999)],
      );
    }
  },

  // Jobs are deleted when they are done.
  unfinished: `exists (select from graphile_worker._private_jobs where run_at <= now())`,

  async execute({ url, handlers, concurrency }) {
    const taskList = Object.fromEntries(
      Object.entries(handlers).map(([name, handle]) => [name, async (data) => handle(data)]),
    );
    const worker = { connectionString: url, logger, ...settings };
    if (concurrency) {
      worker.concurrentJobs = concurrency;
      // Several processes have to get along with the 100 connections that a server takes by default.
      worker.maxPoolSize = Math.min(concurrency + 1, 25);
    }
    const runner = await run({ preset: { worker }, taskList, parsedCronItems: [], noHandleSignals: true });
    return { stop: () => runner.stop() };
  },

  async connect({ url }) {
    const utils = await makeWorkerUtils({
      preset: { worker: { connectionString: url, maxPoolSize: 16, logger } },
    });
    return {
      schedule: (handler, data, delay) =>
        utils.addJob(handler, data, delay > 0 ? { runAt: new Date(Date.now() + delay) } : {}),
      scheduleMany: (handler, all) =>
        utils.addJobs(all.map((data) => ({ identifier: handler, payload: data }))),
      close: async () => utils.release(),
    };
  },
});

export const graphileWorker = contender(
  'graphile-worker',
  'graphile-worker',
  'graphile-worker 0.18, defaults but for 10 jobs at a time (its default is 1)',
  { concurrentJobs: 10, maxPoolSize: 11 },
);

/** As its performance page says. */
export const graphileWorkerTuned = contender(
  'graphile-worker-tuned',
  'graphile-worker, tuned',
  'graphile-worker 0.18, 24 jobs at a time, local queue of 500, completions and failures batched',
  {
    concurrentJobs: 24,
    maxPoolSize: 25,
    localQueue: { size: 500 },
    completeJobBatchDelay: 0,
    failJobBatchDelay: 0,
  },
);
