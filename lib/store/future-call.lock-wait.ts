import pg from 'pg';
import type { DataSource } from 'typeorm';
import { sleep } from '../common/timers.js';
import { FutureCallSchemaError } from '../contract/future-call.errors.js';
import type { FutureCallTable } from '../tables/future-call.tables.js';
import { FutureCallConnection } from './future-call.connection.js';
import { SCHEMA_CONNECTION } from './future-call.schema-connection.js';

/** What a backend waits for, in words for people. */
export interface LockWait {
  /** What is held: a table, or what else there is to lock. */
  readonly what: string;
  /** Who holds it, or has asked before. */
  readonly who: string;
  /** Their pids, without those that have none. */
  readonly pids: readonly string[];
}

/** How much of a statement is shown. */
const SHOWN = 80;

/** PostgreSQL's "lock_not_available". */
const LOCK_TIMEOUT = '55P03';
/** How often to look, in milliseconds, while an instance registers. */
const LOOK_EVERY = 1_000;

/**
 * What the backend $1 waits for and who keeps it waiting, a row for each of these. Everybody may see pids and the names of
 * applications; a transaction's start and its statement only who may read all statistics, or has the same role. A
 * prepared transaction has no pid.
 */
const BLOCKERS = `
  select w.locktype, '"' || n.nspname || '"."' || c.relname || '"', blocker.pid, a.application_name,
    to_char(a.xact_start at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS'),
    case when a.xact_start is not null then left(regexp_replace(a.query, '\\s+', ' ', 'g'), ${SHOWN}) end
  from pg_locks w
  cross join lateral (select distinct unnest(pg_blocking_pids(w.pid))) blocker (pid)
  left join pg_stat_activity a on a.pid = blocker.pid
  left join pg_class c on c.oid = w.relation
  left join pg_namespace n on n.oid = c.relnamespace
  where w.pid = $1 and not w.granted order by blocker.pid`;

/**
 * Looks every `period` milliseconds what a backend of ours waits for, on a connection of its own that is opened when it
 * looks first: who waits cannot ask, and once it has given up, nobody can tell.
 */
export class FutureCallLockWait {
  private readonly stopped = new AbortController();
  private readonly watching: Promise<void>;
  private seen: LockWait | undefined;

  constructor(
    private readonly dataSource: DataSource,
    private readonly backendPid: number,
    private readonly period: number,
  ) {
    this.watching = this.watch();
  }

  /** What it waited for when somebody looked last. Undefined when it did not wait, or when nobody could look. */
  get last(): LockWait | undefined {
    return this.seen;
  }

  async stop(): Promise<void> {
    this.stopped.abort();
    await this.watching;
  }

  private async watch(): Promise<void> {
    const { signal } = this.stopped;
    await sleep(this.period, signal);
    if (signal.aborted) return;
    await FutureCallConnection.openFor(
      this.dataSource,
      { applicationName: SCHEMA_CONNECTION, signal },
      async (connection) => {
        while (!signal.aborted) {
          const { rows } = await connection.query({ text: BLOCKERS }, [this.backendPid]);
          if (rows.length > 0) this.seen = describe(rows);
          await sleep(this.period, signal);
        }
      },
      // Without it, the line in the log does not say who.
    ).catch(() => {});
  }
}

/** Whether that is what PostgreSQL says to who has waited for a lock for long enough. */
export const isLockTimeout = (error: unknown) => (error as { code?: unknown }).code === LOCK_TIMEOUT;

/** What helps against it, as a sentence. */
export function cureFor(wait: LockWait | undefined): string {
  const end = wait?.pids.map((pid) => `select pg_terminate_backend(${pid})`).join('; ');
  return `Boot again when that is over, or end it${end ? `: ${end}` : ' (pg_locks and pg_stat_activity tell who it is)'}.`;
}

/** Registers an instance. Throws `FutureCallSchemaError` when somebody's lock has kept it from that. */
export async function registerDespiteLocks(
  dataSource: DataSource,
  { path }: FutureCallTable,
  backendPid: number,
  register: () => Promise<void>,
): Promise<void> {
  const watch = new FutureCallLockWait(dataSource, backendPid, LOOK_EVERY);
  try {
    await register();
  } catch (error) {
    const { last } = watch;
    // Or it took so long that the connection was given up.
    const isGivenUp = last !== undefined && !(error instanceof pg.DatabaseError);
    if (!isLockTimeout(error) && !isGivenUp) throw error;
    throw new FutureCallSchemaError(
      `The instance could not register: ${last?.what ?? path} is locked by ${last?.who ?? 'somebody'}. ${cureFor(last)}`,
      { cause: error },
    );
  } finally {
    await watch.stop();
  }
}

function describe(rows: readonly (string | null)[][]): LockWait {
  const [[locktype, relation]] = rows as [[string, string | null]];
  return {
    what: relation ?? `a lock (${locktype})`,
    who: rows
      .map(([, , pid, application, since, query]) => holder(pid!, application, since, query))
      .join(', '),
    pids: rows.flatMap(([, , pid]) => (pid === null || pid === '0' ? [] : pid!)),
  };
}

function holder(pid: string, application?: string | null, since?: string | null, query?: string | null) {
  if (pid === '0') return 'a prepared transaction (see pg_prepared_xacts)';
  const known = [
    application ? `application "${application}"` : undefined,
    since ? `in a transaction since ${since} UTC: ${query}` : undefined,
  ].filter(Boolean);
  return `pid ${pid}${known.length > 0 ? ` (${known.join(', ')})` : ''}`;
}
