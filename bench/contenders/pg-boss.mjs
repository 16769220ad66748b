import { PgBoss } from 'pg-boss';

/** @import { Contender } from '../types.js' */

/** Rows of one insert: what is quickest. */
const CHUNK = 5_000;

/**
 * @param {string} id
 * @param {string} label
 * @param {string} about
 * @param {(concurrency: number | undefined) => object} work
 * @returns {Contender}
 */
const contender = (id, label, about, work) => ({
  id,
  label,
  about,

  async prepare({ url }, handlers) {
    const boss = await start({ connectionString: url, supervise: false, schedule: false });
    for (const name of handlers) await boss.createQueue(name, { notify: true });
    await boss.stop({ graceful: false });
  },

  async fill({ client, url }, { handler, count, due }) {
    const { rows } = await client.query(
      `select (extract(epoch from due) * 1000)::float8 as at, due <= now() as is_due
       from (select date_trunc('milliseconds', ${due}) as due from generate_series(1, $1::int) i) d`,
      [count],
    );
    const boss = await start({ connectionString: url, supervise: false, schedule: false });
    for (let from = 0; from < count; from += CHUNK) {
      const jobs = rows.slice(from, from + CHUNK).map(({ at, is_due }) => ({
        data: { at },
        ...(!is_due && { startAfter: new Date(at).toISOString() }),
      }));
      await boss.insert(handler, jobs);
    }
    await boss.stop({ graceful: false });
  },

  unfinished: `exists (select from pgboss.job where state < 'completed' and start_after <= now())`,

  async execute({ url, handlers, concurrency }) {
    const boss = await start({ connectionString: url, max: 16, useListenNotify: true });
    for (const [name, handle] of Object.entries(handlers)) {
      await boss.work(name, work(concurrency), async (jobs) => {
        if (jobs.length === 1) await handle(jobs[0].data);
        else await Promise.all(jobs.map(async ({ data }) => handle(data)));
      });
    }
    return { stop: () => boss.stop({ graceful: true }) };
  },

  async connect({ url }) {
    const boss = await start({ connectionString: url, max: 16, supervise: false, schedule: false });
    return {
      schedule: (handler, data, delay) =>
        boss.send(handler, data, delay > 0 ? { startAfter: delay / 1_000 } : {}),
      scheduleMany: (handler, all) =>
        boss.insert(
          handler,
          all.map((data) => ({ data })),
          { returnId: true },
        ),
      close: () => boss.stop({ graceful: false }),
    };
  },
});

export const pgBoss = contender(
  'pg-boss',
  'pg-boss, batches',
  'pg-boss 12.38, batches of 1,000, 4 local workers, fetching on while batches are full',
  () => ({ batchSize: 1_000, localConcurrency: 4, burstWhenBatchFull: true, pollingIntervalSeconds: 0.5 }),
);

/** For handlers that take time, and to answer soon: a worker that fetches one job at a time rests after each. */
export const pgBossNotified = contender(
  'pg-boss-notified',
  'pg-boss, notified',
  'pg-boss 12.38, LISTEN/NOTIFY on, 2 local workers with batches of half the concurrency, polling every 0.5 s',
  (concurrency = 10) => ({
    batchSize: Math.max(2, concurrency / 2),
    localConcurrency: 2,
    burstWhenBatchFull: true,
    pollingIntervalSeconds: 0.5,
    notifyPollingIntervalSeconds: 0.5,
  }),
);

/** For processes that have nothing to do. */
export const pgBossDefault = contender(
  'pg-boss-default',
  'pg-boss, defaults',
  'pg-boss 12.38, its defaults, LISTEN/NOTIFY on',
  () => ({}),
);

async function start(options) {
  const boss = new PgBoss(options);
  boss.on('error', (error) => console.error('pg-boss:', error.message));
  return boss.start();
}
