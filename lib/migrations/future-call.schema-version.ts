import { FutureCallSchemaError } from '../future-call.errors.js';
import type { FutureCallTables } from '../future-call.tables.js';

/** Runs one statement. What differs between TypeORM's query runner and a connection of our own. */
export type RunStatement = (text: string, values?: unknown[]) => Promise<Record<string, unknown>[]>;

/** What the database says of our tables. */
export interface FoundSchema {
  /** 0 when there are no tables. */
  readonly version: number;
  /** The oldest version whose code works on these tables. */
  readonly readableSince: number;
  /** Whether the settings that TypeORM's schema diff cannot see are in place. */
  readonly storageIsSet: boolean;
}

/** Reads the version from the comment of `future_call`. Throws when there is such a table, but not ours. */
export async function findSchema(run: RunStatement, tables: FutureCallTables): Promise<FoundSchema> {
  const [row] = await run(
    `select obj_description(c.oid, 'pg_class') as comment, c.reloptions is not null as storage
       from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where n.nspname = $1 and c.relname = $2 and c.relkind in ('r', 'p')`,
    [tables.schema, tables.pending.name],
  );
  if (row === undefined) return { version: 0, readableSince: 0, storageIsSet: false };
  const [, version, readableSince] = /schema (\d+), readable since (\d+)/.exec(String(row['comment'])) ?? [];
  if (version === undefined) {
    throw new FutureCallSchemaError(
      `There is a table ${tables.pending.path}, but not one of nestjs-future-call: it lacks the comment that says its version. ` +
        `Rename that table, or give the data source another schema or entityPrefix.`,
    );
  }
  return {
    version: Number(version),
    readableSince: Number(readableSince),
    storageIsSet: row['storage'] === true,
  };
}
