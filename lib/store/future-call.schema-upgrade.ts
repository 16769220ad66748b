import { Logger } from '@nestjs/common';
import type { DataSource } from 'typeorm';
import { errorText } from '../common/describe-error.js';
import { monotonic, sleep } from '../common/timers.js';
import { FutureCallSchemaError } from '../contract/future-call.errors.js';
import type { FutureCallTables } from '../tables/future-call.tables.js';
import {
  lockMigrations,
  upgradeTables,
  type FutureCallMigration,
} from '../tables/migrations/future-call.migration.js';
import type { FoundSchema, RunStatement } from '../tables/migrations/future-call.schema-version.js';
import type { FutureCallConnection } from './future-call.connection.js';
import { cureFor, FutureCallLockWait, isLockTimeout, type LockWait } from './future-call.lock-wait.js';
import { answeredWithin, runnerOf } from './future-call.schema-connection.js';

/** Milliseconds. */
export interface UpgradeLimits {
  /** How long one try waits for a lock. Whoever uses the tables waits behind it, the claims of other processes too. */
  readonly lockTimeout: number;
  /** The rest between two tries: the migration lock is free, and so is the way to the tables. */
  readonly pause: number;
  /** How long it is tried while somebody has locked a table. */
  readonly locked: number;
  /** How long it is tried while another process creates or changes the tables, which may be much work. */
  readonly migrating: number;
}

const LIMITS: UpgradeLimits = { lockTimeout: 2_000, pause: 1_000, locked: 30_000, migrating: 600_000 };

/** How long the server may take to answer beside the time that it waits for a lock, in milliseconds. */
const ANSWER_WITHIN = 10_000;

/** PostgreSQL's "insufficient_privilege". */
const NOT_ALLOWED = '42501';
/**
 * What comes of two that create the same at the same time: an older release knows another migration lock, and an app with
 * another prefix may create the same schema. Whoever looks again finds it done. And a deadlock with the app's statements.
 */
const COLLISION = /^(?:23505|42P0[67]|42701|42710|40P01)$/;
/** How many tries in all may end so. */
const MAX_COLLISIONS = 3;

/** A try that came to nothing. */
interface Failure {
  readonly error: unknown;
  /** What it waited for, if it did and if somebody could see it. */
  readonly wait: LockWait | undefined;
  /** Whether it had the migration lock, and worked on the tables. */
  readonly isAtWork: boolean;
}

/**
 * Creates or upgrades the tables, in tries: who waits for a lock on a table holds up whoever uses that table after it, and
 * whoever wants to boot.
 */
export class FutureCallSchemaUpgrade {
  private readonly logger = new Logger('FutureCall');

  constructor(
    private readonly dataSource: DataSource,
    private readonly tables: FutureCallTables,
    private readonly migrations: readonly FutureCallMigration[],
    private readonly limits = LIMITS,
  ) {}

  /** Answers with what was there before. Throws `FutureCallSchemaError` for what only a person can cure. */
  async run(connection: FutureCallConnection): Promise<FoundSchema> {
    const { locked, migrating, pause } = this.limits;
    const begun = monotonic();
    let collisions = 0;
    let told = '';
    for (;;) {
      const tried = await this.try(connection);
      if (!('error' in tried)) return tried;
      const { error, wait, isAtWork } = tried;
      const { code } = error as { code?: unknown };
      if (code === NOT_ALLOWED) throw this.notAllowed(error);
      if (isLockTimeout(error)) {
        const reason = this.describe(wait, isAtWork);
        const waited = monotonic() - begun;
        if (waited > (isAtWork ? locked : migrating)) throw stillLocked(reason, wait, waited, error);
        if (reason !== told) {
          this.logger.warn(`The tables cannot be created or changed yet, and it is tried again: ${reason}.`);
        }
        // Once for each reason: who holds it may change.
        told = reason;
      } else if (!COLLISION.test(String(code)) || ++collisions === MAX_COLLISIONS) throw error;
      // Who waits behind the same lock need not come together.
      await sleep(pause * (0.5 + Math.random()), new AbortController().signal);
    }
  }

  private async try(connection: FutureCallConnection): Promise<FoundSchema | Failure> {
    const { lockTimeout } = this.limits;
    let watch: FutureCallLockWait | undefined;
    let isAtWork = false;
    try {
      return await connection.transaction(async (query) => {
        const run = runnerOf(query);
        await answeredWithin(lockTimeout + ANSWER_WITHIN, connection, async () => {
          const pid = await this.configure(run);
          watch = new FutureCallLockWait(this.dataSource, Number(pid), lockTimeout / 2);
          await lockMigrations(run, this.tables);
        });
        isAtWork = true;
        return upgradeTables(run, this.dataSource, this.migrations);
      });
    } catch (error) {
      return { error, wait: watch?.last, isAtWork };
    } finally {
      await watch?.stop();
    }
  }

  /** Answers with the backend's pid: behind a pooler each transaction may have another one. */
  private async configure(run: RunStatement): Promise<unknown> {
    // What the role or the database allows the app's statements is no measure for a migration. A process that is
    // frozen while it migrates must not keep all others from booting.
    const pid = await run(
      `select pg_backend_pid(), set_config('statement_timeout', '0', true), set_config('lock_timeout', $1, true),
        set_config('idle_in_transaction_session_timeout', '60s', true)`,
      [`${this.limits.lockTimeout}ms`],
    );
    // PostgreSQL 17 and newer.
    await run(`select set_config(name, '0', true) from pg_settings where name = 'transaction_timeout'`);
    return pid;
  }

  private describe(wait: LockWait | undefined, isAtWork: boolean): string {
    const { path } = this.tables.pending;
    const by = wait === undefined ? '' : ` by ${wait.who}`;
    if (isAtWork) return `${wait?.what ?? `${path} or another one of them`} is locked${by}`;
    return `${path} is being created or changed${by || ' by another process'}`;
  }

  private notAllowed(cause: unknown): FutureCallSchemaError {
    return new FutureCallSchemaError(
      `This database role may not create or change the tables of future calls in the schema "${this.tables.schema}": ${errorText(cause)}. ` +
        `Give it the right, or run futureCallMigrations as a role that has it and set migrate: false.`,
      { cause },
    );
  }
}

function stillLocked(reason: string, wait: LockWait | undefined, waited: number, cause: unknown) {
  return new FutureCallSchemaError(
    `The tables of future calls could not be created or changed within ${Math.round(waited / 1_000)} s: ${reason}. ${cureFor(wait)}`,
    { cause },
  );
}
