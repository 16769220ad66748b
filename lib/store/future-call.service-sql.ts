import type { FutureCallTables } from '../tables/future-call.tables.js';
import type { SqlTime } from './future-call.clock.js';
import type { PoolStatement } from './future-call.pool.js';
import {
  CALL,
  epochMilliseconds,
  hidesRows,
  notify,
  REPLACE_OUTCOME,
  withNamesOfTexts,
} from './future-call.sql.js';

/** When to notify, as the statements take it: see `scheduleAfter`. */
export type NotifyMode = 'always' | 'soon' | 'never';

/** Statements of scheduling and cancelling. They run on the app's own connections. */
export function serviceStatements(tables: FutureCallTables, time: SqlTime) {
  const { pending, outcome, instance } = tables;

  // 'soon' notifies only for a call that is due before the next poll of the laziest instance, and a second more for the
  // time that this statement takes to commit. Calls further away are found by the polls, and a commit that notifies
  // takes a lock that all such commits share.
  const isWorthNotifying = (mode: string, dueAt: string) =>
    `(${mode} = 'always' or (${mode} = 'soon' and ${dueAt} < ${time.now} + (
      select max(poll_interval) + 1000 from ${instance.path}) * interval '1 millisecond'))`;

  // The insert and its notification are one statement: one round trip, and no moment in between to crash in.
  const schedule = (dueAt: string) => `
    with scheduled as (
      insert into ${pending.path} (name, identifier, data, due_at, created_at)
      values ($1, $2, $3::text::jsonb, ${dueAt}, ${time.now})
      returning id, name, due_at
    )
    select id::text as id, ${epochMilliseconds('due_at')}::text as due,
      case when ${isWorthNotifying('$4::text', 'due_at')} then ${notify(tables, 'name', 'due_at')} end as notified
    from scheduled`;

  /**
   * Calendar units are counted in UTC, so that a month from 31 January is the end of February whatever time zone the
   * connection has. The column keeps milliseconds: rounding down would make a call early, so microseconds are added.
   */
  const afterDelay = (months: string, milliseconds: string, microseconds: string) =>
    `date_trunc('milliseconds', ((${time.moment} at time zone 'UTC') + make_interval(months => ${months})
      + ${milliseconds} * interval '1 millisecond' + ${microseconds} * interval '1 microsecond') at time zone 'UTC')`;
  const atTime = (milliseconds: string) =>
    `'epoch'::timestamptz + ${milliseconds} * interval '1 millisecond'`;

  const unlessAllIsSeen = `union all select null, current_user where ${hidesRows(pending)}`;

  const inserting = `insert into ${pending.name}`;
  return withNamesOfTexts({
    /** $5 months, $6 milliseconds, $7 microseconds to add before they are cut off. */
    scheduleAfter: {
      name: 'future_call_schedule_after',
      summary: inserting,
      text: schedule(afterDelay('$5::int', '$6::float8', '$7::int')),
    },
    /** $5 milliseconds since 1970. */
    scheduleAt: {
      name: 'future_call_schedule_at',
      summary: inserting,
      text: schedule(atTime('$5::float8')),
    },
    /**
     * Parallel arrays, an entry a call: $1 names, $2 identifiers, $3 data, and either $4 months, $5 milliseconds and $6
     * microseconds of a delay, or $7 milliseconds since 1970. $8 when to notify. Ids are given in the order of the
     * arrays. One notification: of the handler, or of all handlers (no name) when there are several.
     */
    scheduleMany: {
      name: 'future_call_schedule_many',
      summary: inserting,
      text: `
        with scheduled as (
          insert into ${pending.path} (name, identifier, data, due_at, created_at)
          select name, identifier, data::jsonb,
            case when at is null then ${afterDelay('months', 'milliseconds', 'microseconds')} else ${atTime('at')} end,
            ${time.now}
          from unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::float8[], $6::int[], $7::float8[])
            with ordinality as given (name, identifier, data, months, milliseconds, microseconds, at, position)
          order by position
          returning id, name, due_at
        ), earliest as (
          select min(due_at) as due_at, case when min(name) = max(name) then min(name) else '' end as name from scheduled
        )
        select id::text as id, ${epochMilliseconds('due_at')}::text as due, null as notified from scheduled
        union all
        select null, null, ${notify(tables, 'name', 'due_at')}::text from earliest where ${isWorthNotifying('$8::text', 'due_at')}`,
    },
    /** Notifies of calls of handler $1 (or of all, when it is empty) due at $2 milliseconds since 1970. $3 when to. */
    notify: {
      name: 'future_call_notify',
      summary: 'notify',
      text: `
        select ${notify(tables, 'name', 'due_at')} from (select $1::text as name, ${atTime('$2::float8')} as due_at) calls
        where ${isWorthNotifying('$3::text', 'due_at')}`,
    },
    /** A row without an id has a role from which row-level security may hide calls. */
    cancel: {
      name: 'future_call_cancel',
      summary: `delete from ${pending.name}`,
      text: `
        with cancelled as (delete from ${pending.path} where identifier = $1 returning id, name)
        select id::text as id, name from cancelled ${unlessAllIsSeen}`,
    },
    /** As `cancel`, and keeps the outcome. */
    cancelAndKeep: {
      name: 'future_call_cancel_keep',
      summary: `delete from ${pending.name}`,
      text: `
        with cancelled as (delete from ${pending.path} where identifier = $1 returning *), kept as (
          insert into ${outcome.path} (call_id, attempt, ${CALL}, outcome, finished_at)
          select id, attempt, ${CALL}, 'cancelled', ${time.moment} from cancelled ${REPLACE_OUTCOME}
          returning call_id, name
        )
        select call_id::text as id, name from kept ${unlessAllIsSeen}`,
    },
  } satisfies Record<string, PoolStatement>);
}
