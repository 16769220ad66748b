import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { inject } from 'vitest';

export interface TestDatabase {
  readonly name: string;
  /** For `pg`, and for TypeORM's `url`. */
  readonly url: string;
  /** For what needs a connection of its own: transactions, LISTEN. */
  readonly pool: pg.Pool;
  /** Runs one statement, and returns its rows. */
  query<Row extends pg.QueryResultRow>(sql: string, values?: unknown[]): Promise<Row[]>;
  /** Ends every connection to it, and removes it. */
  drop(): Promise<void>;
}

export interface TestDatabaseOptions {
  server?: string;
  /** The database to copy. PostgreSQL takes one that nobody is connected to: every connection to it is ended. */
  template?: string;
}

/** A database of the test's own, on the server of the run or on another one. */
export async function createDatabase({
  server = inject('serverUrl'),
  template = 'template1',
}: TestDatabaseOptions = {}): Promise<TestDatabase> {
  const name = inject('databasePrefix') + randomBytes(4).toString('hex');
  await onServer(server, async (client) => {
    if (template !== 'template1') await client.query(END_CONNECTIONS, [template]);
    await client.query(`create database "${name}" template "${template}"`);
  });
  const url = new URL(server);
  url.pathname = `/${name}`;
  const pool = new pg.Pool({ connectionString: url.href, max: 4, application_name: 'test' });
  // A test may end the server or its connections; the next query reports what matters. So does the end of the pool,
  // which does not wait for its sockets: the drop may find them open, and ends them.
  pool.on('error', () => {});
  let dropped: Promise<void> | undefined;
  return {
    name,
    url: url.href,
    pool,
    async query<Row extends pg.QueryResultRow>(sql: string, values?: unknown[]) {
      return (await pool.query<Row>(sql, values)).rows;
    },
    drop: () =>
      (dropped ??= pool
        .end()
        .then(() =>
          onServer(server, (client) => client.query(`drop database if exists "${name}" with (force)`)),
        )),
  };
}

const END_CONNECTIONS = 'select pg_terminate_backend(pid) from pg_stat_activity where datname = $1';

async function onServer(url: string, work: (client: pg.Client) => Promise<unknown>): Promise<void> {
  const client = new pg.Client({ connectionString: url, application_name: 'test' });
  await client.connect();
  try {
    await work(client);
  } finally {
    await client.end();
  }
}
