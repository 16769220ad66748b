import type { DataSource, MigrationInterface, QueryRunner } from 'typeorm';
import { dataSourceOf } from '../future-call.data-source.js';
import { futureCallTables, quoteName, type FutureCallTables } from '../future-call.tables.js';
import { findSchema, type FoundSchema, type RunStatement } from './future-call.schema-version.js';

/** What releases held that had one lock for all tables of a database. */
const LOCK_OF_ALL_TABLES = 4_672_063_111;

/**
 * One version of the tables: a TypeORM migration, and what `migrate: true` runs.
 *
 * The next version is a file like `…-create-future-call.ts` and its line in `future-call.migrations.ts`, next to what
 * changes in the entities:
 * - `statements` lead from the version before to this one, with rows in the tables and the release before still
 *   running on them; `undo` leads back. Both end with the comment that says the version they lead to.
 * - "readable since" in that comment is the oldest version whose code works on the new tables. Adding a column that
 *   is nullable or has a default keeps it; what breaks older code raises it to the new version.
 * - The entity's comment is the newest one: `synchronize` writes it.
 *
 * The tests compare what the statements, the entities and a database of the version before come to.
 */
export abstract class FutureCallMigration implements MigrationInterface {
  /** As TypeORM records it: it ends in the time of its making. */
  abstract readonly name: string;
  /** Counted from 1. */
  abstract readonly version: number;

  abstract statements(dataSource: DataSource): string[];
  abstract undo(dataSource: DataSource): string[];

  /** Does nothing on tables that have this version already, whoever made them. */
  async up(queryRunner: QueryRunner): Promise<void> {
    const run = runnerOf(queryRunner);
    const dataSource = dataSourceOf(queryRunner);
    await lockMigrations(run, futureCallTables(dataSource));
    await upgradeTables(run, dataSource, [this]);
  }

  async down(queryRunner: QueryRunner): Promise<void> {
    const dataSource = dataSourceOf(queryRunner);
    const { version } = await findSchema(runnerOf(queryRunner), futureCallTables(dataSource));
    if (version >= this.version) await queryRunner.query(this.undo(dataSource).join(';\n'));
  }
}

/**
 * Waits until nobody else creates or changes these tables, until the transaction ends. Those of another schema or prefix
 * have a lock of their own: who waits for one of them keeps no other app from booting.
 */
export async function lockMigrations(run: RunStatement, { pending }: FutureCallTables): Promise<void> {
  // Older releases are kept waiting, not waited for: one may hold it for ever because of other tables.
  await run('select pg_try_advisory_xact_lock_shared($1)', [LOCK_OF_ALL_TABLES]);
  // Ten processes that boot at once: one works, nine wait here and then find everything done.
  await run('select pg_advisory_xact_lock(hashtextextended($1, 0))', [migrationLockName(pending.path)]);
}

/** What the key of that lock is the hash of. */
export const migrationLockName = (path: string) => `nestjs-future-call migrates ${path}`;

/**
 * Brings the tables to the last one of these versions. To be run in a transaction that has the lock. Answers with what
 * was there before.
 */
export async function upgradeTables(
  run: RunStatement,
  dataSource: DataSource,
  migrations: readonly FutureCallMigration[],
): Promise<FoundSchema> {
  const tables = futureCallTables(dataSource);
  const found = await findSchema(run, tables);
  const steps = migrations.filter(({ version }) => version > found.version);
  const statements = steps.flatMap((step) => step.statements(dataSource));
  if (!found.storageIsSet) statements.push(...storageSettings(tables));
  // Not "if not exists": that would need the right to create schemas, also where there is nothing to create.
  if (!(await run('select true from pg_namespace where nspname = $1', [tables.schema]))) {
    statements.unshift(`create schema ${quoteName(tables.schema)}`);
  }
  // In one text: all or nothing, also where TypeORM was told to use no transaction.
  if (statements.length > 0) await run(statements.join(';\n'));
  return found;
}

/**
 * What TypeORM's entities cannot say. Vacuum eagerly: every call leaves a dead row in both tables, and a claim walks
 * over the dead entries of the index until vacuum has removed them. The defaults would let a fifth of the table die
 * first. Set once: what an administrator makes of them stays.
 */
function storageSettings({ pending, running }: FutureCallTables): string[] {
  return [pending, running].map(
    ({ path }) => `alter table ${path} set (
      autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500,
      autovacuum_analyze_scale_factor = 0.05, autovacuum_analyze_threshold = 1000,
      autovacuum_vacuum_cost_delay = 0)`,
  );
}

function runnerOf(queryRunner: QueryRunner): RunStatement {
  return async (text, values) => {
    const rows = (await queryRunner.query(text, values)) as [object] | undefined;
    return Object.values(rows?.[0] ?? {})[0];
  };
}
