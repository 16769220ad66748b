import { FutureCallSchemaError } from '../contract/future-call.errors.js';
import type { FutureCallTable, FutureCallTables } from '../tables/future-call.tables.js';
import type { FutureCallConnection } from './future-call.connection.js';

/**
 * Throws `FutureCallSchemaError` when row-level security holds for who asks, on any of the tables. Its policies would hide
 * rows without an error: what is claimed would run and never end. To be asked for every role that runs our statements.
 */
export async function refuseRowSecurity(
  connection: FutureCallConnection,
  { schema, pending, running, outcome, instance }: FutureCallTables,
): Promise<void> {
  const tables = [pending, running, outcome, instance];
  const { rows } = await connection.query(
    {
      text: `select c.relname, current_user from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where n.nspname = $1 and c.relname = any($2) and row_security_active(c.oid)`,
    },
    [schema, tables.map(({ name }) => name)],
  );
  if (rows.length === 0) return;
  const names = rows.map(([name]) => name);
  throw rowSecurityHolds(
    rows[0]![1]!,
    tables.filter(({ name }) => names.includes(name)),
  );
}

export function rowSecurityHolds(role: string, tables: readonly FutureCallTable[]): FutureCallSchemaError {
  const paths = tables.map(({ path }) => path);
  return new FutureCallSchemaError(
    `Row-level security holds for the role "${role}" on ${paths.join(', ')}, and would hide calls from it without an error. ` +
      `Let the tables' owner run future calls, without "force", or a role with bypassrls; or take it off: ` +
      `${paths.map((path) => `alter table ${path} disable row level security, no force row level security`).join('; ')}.`,
  );
}
