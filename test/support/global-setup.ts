import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import path from 'node:path';
import { promisify } from 'node:util';
import pg from 'pg';
import type { TestProject } from 'vitest/node';
import { temporaryPostgres } from '../../scripts/embedded-postgres.mjs';
import { bundleLibraries } from './libraries/bundle.js';

declare module 'vitest' {
  export interface ProvidedContext {
    /** A PostgreSQL on which databases may be created. */
    serverUrl: string;
    /** What the name of every database of this run begins with. */
    databasePrefix: string;
  }
}

const TEST_SETTINGS = {
  // Nothing here survives the machine. What a crash of PostgreSQL leaves is the same without fsync: the
  // operating system goes on, and holds what was written. synchronous_commit stays on.
  fsync: 'off',
  full_page_writes: 'off',
  max_connections: 300,
  // Some tests count statements.
  shared_preload_libraries: 'pg_stat_statements',
};

/** One PostgreSQL for the whole run, and the apps of test/support/apps compiled for Node. */
export default async function setup({ provide }: TestProject) {
  const [server] = await Promise.all([findServer(), compileApps()]);
  const run = `fc_test_${randomBytes(4).toString('hex')}`;
  // Its name says that this run lives, for as long as it does.
  const client = new pg.Client({ connectionString: server.url, application_name: run });
  await client.connect();
  await dropDatabases(client, LEFT_BY_OTHERS);

  provide('serverUrl', server.url);
  provide('databasePrefix', `${run}_`);

  return async () => {
    await dropDatabases(client, LEFT_BY_THIS_RUN);
    await client.end();
    await server.stop();
  };
}

async function findServer(): Promise<{ url: string; stop(): Promise<void> }> {
  const url = process.env.DATABASE_URL;
  if (url) return { url, stop: async () => {} };
  return temporaryPostgres({ settings: TEST_SETTINGS });
}

/** Node 20 runs no TypeScript. */
async function compileApps(): Promise<void> {
  const tsc = path.resolve(import.meta.dirname, '../../node_modules/typescript/bin/tsc');
  const project = path.join(import.meta.dirname, 'apps/tsconfig.json');
  await promisify(execFile)(process.execPath, [tsc, '-p', project]).catch((error: { stdout: string }) => {
    throw new Error(`The apps of test/support/apps do not compile:\n${error.stdout}`);
  });
  await bundleLibraries(path.resolve(import.meta.dirname, '../../.cache/apps'));
}

const LEFT_BY_THIS_RUN = `
  select datname from pg_database
  where starts_with(datname, current_setting('application_name') || '_')`;

/** What an interrupted run has left on a server that outlived it. */
const LEFT_BY_OTHERS = `
  select datname from pg_database
  where datname ~ '^fc_test_[0-9a-f]{8}_'
    and not exists (select from pg_stat_activity where application_name = left(pg_database.datname, 16))`;

async function dropDatabases(client: pg.Client, which: string): Promise<void> {
  const { rows } = await client.query<{ datname: string }>(which);
  for (const { datname } of rows) await client.query(`drop database if exists "${datname}" with (force)`);
}
