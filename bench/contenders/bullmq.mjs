import { createPostgresBackend, withBackend } from 'bullmq';

/** @import { Contender } from '../types.js' */

const { Queue, Worker } = withBackend(createPostgresBackend);

/** One queue; a handler is a job's name in it. */
const QUEUE = 'bench';
const CHUNK = 1_000;

/** @type {Contender} */
export const bullmq = {
  id: 'bullmq',
  label: 'BullMQ on PostgreSQL',
  about: 'BullMQ 6.7 on its PostgreSQL backend, 10 jobs at a time, completed jobs removed',

  async prepare({ url }) {
    const queue = await open(url, { migrate: true });
    await queue.close();
  },

  async fill({ client, url }, { handler, count, due }) {
    const { rows } = await client.query(
      `select (extract(epoch from due) * 1000)::float8 as at, (extract(epoch from now()) * 1000)::float8 as now
       from (select date_trunc('milliseconds', ${due}) as due from generate_series(1, $1::int) i) d`,
      [count],
    );
    const queue = await open(url);
    for (let from = 0; from < count; from += CHUNK) {
      // It takes a delay, not a time.
      await queue.addBulk(
        rows.slice(from, from + CHUNK).map(({ at, now }) => ({
          name: handler,
          data: { at },
          opts: at > now ? { delay: at - Date.now() } : {},
        })),
      );
    }
    await queue.close();
  },

  unfinished: `exists (select from bullmq.job where state in ('waiting', 'active', 'delayed'))`,

  async execute({ url, handlers, concurrency = 10 }) {
    const worker = new Worker(QUEUE, async ({ name, data }) => handlers[name](data), {
      connection: { connectionString: url, max: Math.max(10, Math.min(concurrency + 1, 30)) },
      concurrency,
      removeOnComplete: { count: 0 },
    });
    worker.on('error', (error) => console.error('BullMQ:', error.message));
    await worker.waitUntilReady();
    return { stop: () => worker.close() };
  },

  async connect({ url }) {
    const queue = await open(url);
    return {
      schedule: (handler, data, delay) => queue.add(handler, data, { delay }),
      scheduleMany: (handler, all) => queue.addBulk(all.map((data) => ({ name: handler, data }))),
      close: () => queue.close(),
    };
  },
};

async function open(url, { migrate = false } = {}) {
  const queue = new Queue(QUEUE, { connection: { connectionString: url, max: 16, migrate } });
  queue.on('error', (error) => console.error('BullMQ:', error.message));
  await queue.waitUntilReady();
  return queue;
}
