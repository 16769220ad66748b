import { createHash } from 'node:crypto';
import type { FutureCallTable, FutureCallTables } from '../tables/future-call.tables.js';
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

const channel = (tables: FutureCallTables) => `'future_call_' || ${instanceTableOid(tables)}`;

/** For a literal. */
export const escape = (text: string) => text.replaceAll("'", "''");

/**
 * So many milliseconds after now. The columns keep milliseconds: rounding could make a call early, and one without a delay
 * late, so it is rounded up, and not at all without a delay.
 */
export const afterMilliseconds = ({ moment }: SqlTime, milliseconds: string) =>
  `date_trunc('milliseconds', ${moment} + ${milliseconds} * interval '1 millisecond'
    + case when ${milliseconds} > 0 then interval '999 microseconds' else '0' end)`;

/** When the first pending call of the handlers in an array of names is due: one row, with null when there is none. */
export const firstDueAt = ({ pending }: FutureCallTables, names: string) => `
  select min(first.due_at) as due_at from unnest(${names}::text[]) as handler (name)
  cross join lateral (
    select due_at from ${pending.path} call
    where call.name = handler.name and call.due_at < 'infinity' order by call.due_at, call.id limit 1
  ) first`;

/** How many outcomes of a kind are deleted in one statement: other statements come in between. */
export const PRUNE_BATCH = 1_000;

/** The outcomes $1 that are older than $2 milliseconds, in parallel arrays, as `o`, beside `kept`. */
export const oldOutcomes = ({ outcome }: FutureCallTables, { now }: SqlTime) => ({
  kept: `unnest($1::text[], $2::float8[]) as kept (outcome, milliseconds)`,
  old: `${outcome.path} o
    where o.outcome = kept.outcome and o.finished_at < ${now} - kept.milliseconds * interval '1 millisecond'`,
});

/**
 * Deletes a batch of each kind of old outcomes; one instance at a time, by the lock 0 of the instances' class. What
 * somebody has locked is left for another time: claims wait behind this statement.
 */
export function pruneOutcomes(tables: FutureCallTables, time: SqlTime): string {
  const { kept, old } = oldOutcomes(tables, time);
  return `
    delete from ${tables.outcome.path} where call_id = any (array(
      select old.call_id from ${kept}
      cross join lateral (
        select call_id from ${old} order by o.finished_at limit ${PRUNE_BATCH} for update of o skip locked
      ) old
      where (select pg_try_advisory_xact_lock(${instanceTableOid(tables)}::bigint::bit(32)::int, 0))
    ))`;
}

/**
 * Whether row-level security holds for who asks. It hides rows without an error, unless the statement inserts; the session
 * has a setting against it, which a connection of the app's cannot be given.
 */
export const hidesRows = ({ path }: FutureCallTable) => `row_security_active('${escape(path)}'::regclass)`;

/** The oid of the instances' table: the class of the locks. */
export const instanceTableOid = ({ instance }: FutureCallTables) =>
  `'${escape(instance.path)}'::regclass::oid`;

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
