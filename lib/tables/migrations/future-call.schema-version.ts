import { FutureCallSchemaError } from '../../contract/future-call.errors.js';
import type { FutureCallTable, FutureCallTables } from '../future-call.tables.js';

/**
 * Runs a statement, or several in one text, and answers with the first value of the first row. What differs between
 * TypeORM's query runner and a connection of our own.
 */
export type RunStatement = (text: string, values?: unknown[]) => Promise<unknown>;

/** What the database says of our tables. */
export interface FoundSchema {
  /** 0 when there are no tables. */
  readonly version: number;
  /** The oldest version whose code works on these tables. */
  readonly readableSince: number;
  /** Whether the settings that TypeORM's schema diff cannot see are in place. */
  readonly storageIsSet: boolean;
  /** Those that somebody has dropped. */
  readonly missing: readonly FutureCallTable[];
}

/** What bears a table's name: a table, a view, an index. By name, because all of them share their names. */
type Relations = Record<string, { comment: string | null; hasSettings: boolean } | undefined>;

/**
 * Reads the version from the comment of `future_call`: the one place that a migration, TypeORM's `synchronize` and
 * a restored dump all carry along. Throws when there is something of that name, but not ours.
 */
export async function findSchema(run: RunStatement, tables: FutureCallTables): Promise<FoundSchema> {
  const all = [tables.pending, tables.running, tables.outcome, tables.instance];
  const answer = await run(
    `select json_object_agg(c.relname, json_build_object(
        'comment', obj_description(c.oid, 'pg_class'), 'hasSettings', c.reloptions is not null))::text
       from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where n.nspname = $1 and c.relname = any($2)`,
    [tables.schema, all.map(({ name }) => name)],
  );
  const relations = JSON.parse((answer as string | null) ?? '{}') as Relations;
  const missing = all.filter(({ name }) => relations[name] === undefined);
  if (missing.length === all.length) return { version: 0, readableSince: 0, storageIsSet: false, missing };

  const pending = relations[tables.pending.name];
  const [, version, readableSince] =
    /^nestjs-future-call: schema (\d+), readable since (\d+)/.exec(pending?.comment ?? '') ?? [];
  if (version === undefined) {
    const stranger = all.find((table) => !missing.includes(table))!;
    throw new FutureCallSchemaError(
      `There is a ${stranger.path}, but it is not a table of nestjs-future-call: ` +
        `${tables.pending.path} ${pending === undefined ? 'does not exist' : 'lacks the comment that says its version'}. ` +
        `Rename what is there, or give the data source another schema or entityPrefix. ` +
        `If it came from a dump without comments, put the comment back that it had.`,
    );
  }
  return {
    version: Number(version),
    readableSince: Number(readableSince),
    storageIsSet: pending?.hasSettings === true,
    missing,
  };
}
