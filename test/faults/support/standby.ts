import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import * as fs from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import pg from 'pg';
import { temporaryPostgres, type TemporaryPostgres } from '../../../scripts/embedded-postgres.mjs';
import { until } from '../../support/until.js';

/** Debian's PostgreSQL 15: what npm packages bring has no pg_basebackup. */
export const REPLICATING = '/usr/lib/postgresql/15/bin';
export const CAN_REPLICATE = existsSync(path.join(REPLICATING, 'pg_basebackup'));

export interface ReplicatedPair {
  readonly primary: TemporaryPostgres;
  /** Where the standby is, for when it is promoted. */
  readonly standbyUrl: string;
  /** From now on a commit waits until the standby has it. */
  synchronous(): Promise<void>;
  /** The standby has everything so far, and gets nothing any more. The primary does not mind. */
  detach(): Promise<void>;
  /** The primary crashes, and the standby takes over. */
  failOver(): Promise<void>;
  /** Both are gone after this. */
  stop(): Promise<void>;
}

/** A primary, and a standby that streams from it. */
export async function replicatedPair(): Promise<ReplicatedPair> {
  const settings = { fsync: 'off', max_connections: 100 };
  const [primary, standby] = await Promise.all([
    temporaryPostgres({ binDir: REPLICATING, settings }),
    // Its own cluster is thrown away: what is wanted is its place, and that it is stopped and removed in any case.
    temporaryPostgres({ binDir: REPLICATING, settings }),
  ]);
  const stop = async () => {
    await Promise.all([primary.stop('immediate'), standby.stop('immediate')]);
  };
  try {
    await standby.halt('immediate');
    const { uid, gid } = await fs.stat(primary.dataDir);
    const run = (command: string, ...args: string[]) =>
      promisify(execFile)(path.join(REPLICATING, command), args, { uid, gid, cwd: '/' });
    await fs.rm(standby.dataDir, { recursive: true });
    await run(
      'pg_basebackup',
      '--write-recovery-conf',
      '--wal-method=stream',
      '--checkpoint=fast',
      `--pgdata=${standby.dataDir}`,
      `--dbname=host=${primary.socketDir} port=${primary.port} user=postgres application_name=standby`,
    );
    await fs.mkdir(standby.socketDir, { mode: 0o700, recursive: true });
    await fs.chown(standby.socketDir, uid, gid);
    const options = {
      ...settings,
      listen_addresses: "''",
      port: standby.port,
      unix_socket_directories: standby.socketDir,
    };
    const start = Object.entries(options).map(([name, value]) => `-c ${name}=${value}`);
    const pgCtl = (...args: string[]) => run('pg_ctl', '-D', standby.dataDir, '-w', ...args);
    await pgCtl('start', '-l', path.join(standby.dataDir, 'server.log'), '-o', start.join(' '));
    await until(
      async () =>
        (await query(primary.url, `select from pg_stat_replication where state = 'streaming'`)) === 1,
      'the standby streams',
    );
    return {
      primary,
      standbyUrl: standby.url,
      stop,
      async synchronous() {
        await query(primary.url, `alter system set synchronous_standby_names = 'standby'`);
        await query(primary.url, 'select pg_reload_conf()');
        await until(
          async () =>
            (await query(primary.url, `select from pg_stat_replication where sync_state = 'sync'`)) === 1,
          'the standby is synchronous',
        );
      },
      async detach() {
        await until(
          async () =>
            (await query(
              primary.url,
              'select from pg_stat_replication where replay_lsn >= pg_current_wal_insert_lsn()',
            )) === 1,
          'the standby has everything',
        );
        await query(standby.url, `alter system set primary_conninfo = ''`);
        await query(standby.url, 'select pg_reload_conf()');
        await until(
          async () => (await query(primary.url, 'select from pg_stat_replication')) === 0,
          'the standby is detached',
        );
      },
      async failOver() {
        await primary.halt('immediate');
        await pgCtl('promote');
      },
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** Runs one statement, and answers with how many rows it has. */
async function query(url: string, sql: string): Promise<number | null> {
  const client = new pg.Client({ connectionString: url, application_name: 'test' });
  await client.connect();
  try {
    return (await client.query(sql)).rowCount;
  } finally {
    await client.end();
  }
}
