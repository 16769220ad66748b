import pg from 'pg';
import { temporaryPostgres } from '../../scripts/embedded-postgres.mjs';
import { killAll, MeasuredProcess } from './process.mjs';

/** @import { Contender, Database, Executor, Lab, SchedulerProcess } from '../types.js' */

/** One server for a whole run, with PostgreSQL's durable defaults, and a fresh database for every measurement. */
export async function openLab({ quick, progress, profile }) {
  const server = await temporaryPostgres();
  const admin = await connect(server.url);
  let databases = 0;
  let closing;

  return {
    server,
    get isClosing() {
      return closing !== undefined;
    },
    quick,
    progress,
    size: (full, small) => (quick ? small : full),

    /** @template T @param {(database: Database) => Promise<T>} use @returns {Promise<T>} */
    async withDatabase(use) {
      const name = `bench_${++databases}`;
      await admin.query(`create database ${name}`);
      const url = server.databaseUrl(name);
      const client = await connect(url);
      try {
        return await use({ name, url, client });
      } finally {
        await killAll();
        await client.end();
        await admin.query(`drop database ${name} with (force)`);
      }
    },

    /** @param {Database} database */
    async settle({ client }) {
      await client.query('vacuum (analyze)');
      await client.query('checkpoint');
    },

    /** @param {Contender} contender @returns {Executor} */
    executor(contender, options) {
      const child = new MeasuredProcess(
        'executor',
        profile ? ['--cpu-prof', `--cpu-prof-dir=${profile}`] : [],
      );
      let count = 0;
      child.on('count', (value) => {
        count = value;
      });
      return {
        pid: child.pid,
        get count() {
          return count;
        },
        start: () => child.call('start', { contender: contender.id, ...options }),
        get isAlive() {
          return child.isAlive;
        },
        memory: () => child.call('memory'),
        report: () => child.call('report'),
        async stop() {
          await child.call('stop');
          await child.ended();
        },
        kill: () => child.kill(),
      };
    },

    /** @param {Contender} contender @returns {Promise<SchedulerProcess>} */
    async scheduler(contender, options) {
      const child = new MeasuredProcess('scheduler');
      await child.call('connect', { contender: contender.id, ...options });
      return {
        paced: (what) => child.call('paced', what),
        flood: (what) => child.call('flood', what),
        bulk: (what) => child.call('bulk', what),
        kill: () => child.kill(),
      };
    },

    /** Ends everything that was started; does so once. */
    close: () =>
      (closing ??= (async () => {
        await killAll();
        await admin.end();
        await server.stop();
      })()),
  };
}

/** @param {string} url */
async function connect(url) {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => {}); // the server ends before us when we are interrupted
  await client.connect();
  return client;
}
