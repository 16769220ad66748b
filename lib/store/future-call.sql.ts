import { createHash } from 'node:crypto';
import type { FutureCallTables } from '../tables/future-call.tables.js';
import type { SqlTime } from './future-call.clock.js';

// What the statements of the service and of the engine have in common.

/** What goes before a call's due time in a notification's payload, and between it and the handler's name. */
export const NOTIFICATION_SEPARATOR = ' ';

/** Notifies of calls due at `dueAt`, of handler `name`. The channel is named by the instances' table in this database. */
export const notify = (tables: FutureCallTables, name: string, dueAt: string) =>
  `pg_notify(${channel(tables)}, ${epochMilliseconds(dueAt)} || '${NOTIFICATION_SEPARATOR}' || ${name})`;

/** Milliseconds since 1970; what is beyond the years of a `Date` is as far as they go. */
export const epochMilliseconds = (time: string) =>
  `(extract(epoch from least(greatest(${time}, '0001-01-01 00:00+00'), '9999-12-31 23:59:59.999+00')) * 1000)::bigint`;

const channel = ({ instance }: FutureCallTables) =>
  `'future_call_' || '${escape(instance.path)}'::regclass::oid`;

/** For a literal. */
export const escape = (text: string) => text.replaceAll("'", "''");

/** ISO 8601 in UTC, as in `errors[].at`. By the database's clock, as every time that we store. */
export const momentAsIso = ({ moment }: SqlTime) =>
  `to_char(${moment} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')`;

/**
 * Statements whose names, where they have one, end in a hash of their text. Two apps with tables of their own may share a
 * connection of a pooler, and whoever prepares a name there first decides what it means; and when the clock was moved,
 * the text is another one.
 */
export function withNamesOfTexts<S extends Record<string, object>>(statements: S): S {
  const named = Object.entries(statements).map(([key, statement]) => {
    // One that is made when it is asked for, a function, has a name of its own and no text.
    const { name, text } = statement as { name?: string; text?: string };
    const isPrepared = name !== undefined && text !== undefined;
    return [key, isPrepared ? { ...statement, name: `${name}_${hash(text)}` } : statement];
  });
  return Object.fromEntries(named) as S;
}

const hash = (text: string) => createHash('sha256').update(text).digest('hex').slice(0, 10);

/** The columns that a call keeps on its way through the tables. */
export const CALL = 'name, identifier, data, due_at, errors, created_at';

// Ids are unique, unless somebody inserts a call with the id of another one, as one who wants to repeat a failed call
// may do. That must not make a statement fail for ever that ends other calls too: the newest outcome stays, and a call
// that is pending already is not made pending twice.
export const UNLESS_PENDING = 'on conflict (id) do nothing';
const OUTCOME =
  'attempt, name, identifier, data, due_at, created_at, outcome, errors, instance_id, claim, host, pid, started_at, finished_at';
export const REPLACE_OUTCOME = `on conflict (call_id) do update set ${OUTCOME.split(', ')
  .map((column) => `${column} = excluded.${column}`)
  .join(', ')}`;
