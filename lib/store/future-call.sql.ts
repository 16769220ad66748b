import type { FutureCallTables } from '../future-call.tables.js';
import type { Statement } from './future-call.connection.js';

/** What goes before a call's due time in a notification's payload, and between it and the handler's name. */
export const NOTIFICATION_SEPARATOR = ' ';

/** Notifies of calls due at `dueAt`, of handler `name`. The channel is named by the instances' table in this database. */
const notify = (tables: FutureCallTables, name: string, dueAt: string) =>
  `pg_notify(${channel(tables)}, ${epochMilliseconds(dueAt)} || '${NOTIFICATION_SEPARATOR}' || ${name})`;

/** Milliseconds since 1970; what is beyond the years of a `Date` is as far as they go. */
const epochMilliseconds = (time: string) =>
  `(extract(epoch from least(greatest(${time}, '0001-01-01 00:00+00'), '9999-12-31 23:59+00')) * 1000)::bigint`;

const channel = ({ instance }: FutureCallTables) =>
  `'future_call_' || '${escape(instance.path)}'::regclass::oid`;

const escape = (text: string) => text.replaceAll("'", "''");

/** ISO 8601 in UTC, as in `errors[].at`. By the database's clock, as every time that we store. */
const NOW_AS_ISO = `to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')`;

/** The columns that a call keeps on its way through the tables. */
const CALL = 'name, identifier, data, due_at, errors, created_at';

// Ids are unique, unless somebody inserts a call with the id of another one, as one who wants to repeat a failed call
// may do. That must not make a statement fail for ever that ends other calls too: the newest outcome stays, and a call
// that is pending already is not made pending twice.
const UNLESS_PENDING = 'on conflict (id) do nothing';
const OUTCOME =
  'attempt, name, identifier, data, due_at, created_at, outcome, errors, instance_id, claim, host, pid, started_at, finished_at';
const REPLACE_OUTCOME = `on conflict (call_id) do update set ${OUTCOME.split(', ')
  .map((column) => `${column} = excluded.${column}`)
  .join(', ')}`;

const prefix = (alias: string, columns: string) =>
  columns
    .split(', ')
    .map((column) => `${alias}.${column}`)
    .join(', ');

/** How many outcomes are deleted in one statement: other statements come in between. */
export const PRUNE_BATCH = 1_000;

/** When to notify, as the statements take it: see `scheduleAfter`. */
export type NotifyMode = 'always' | 'soon' | 'never';

/** Statements of scheduling and cancelling. They run on the app's own connections. */
export function serviceStatements(tables: FutureCallTables) {
  const { pending, outcome, instance } = tables;

  // 'soon' notifies only for a call that is due before the next poll of the laziest instance, and a second more for the
  // time that this statement takes to commit. Calls further away are found by the polls, and a commit that notifies
  // takes a lock that all such commits share.
  const isWorthNotifying = (mode: string, dueAt: string) =>
    `(${mode} = 'always' or (${mode} = 'soon' and ${dueAt} < now() + (
      select max(poll_interval) + 1000 from ${instance.path}) * interval '1 millisecond'))`;

  // The insert and its notification are one statement: one round trip, and no moment in between to crash in.
  const schedule = (dueAt: string) => `
    with scheduled as (
      insert into ${pending.path} (name, identifier, data, due_at)
      values ($1, $2, $3::text::jsonb, ${dueAt})
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
    `date_trunc('milliseconds', ((clock_timestamp() at time zone 'UTC') + make_interval(months => ${months})
      + ${milliseconds} * interval '1 millisecond' + ${microseconds} * interval '1 microsecond') at time zone 'UTC')`;
  const atTime = (milliseconds: string) =>
    `'epoch'::timestamptz + ${milliseconds} * interval '1 millisecond'`;

  return {
    /** $5 months, $6 milliseconds, $7 microseconds to add before they are cut off. */
    scheduleAfter: {
      name: 'future_call_schedule_after',
      text: schedule(afterDelay('$5::int', '$6::float8', '$7::int')),
    },
    /** $5 milliseconds since 1970. */
    scheduleAt: {
      name: 'future_call_schedule_at',
      text: schedule(atTime('$5::float8')),
    },
    /**
     * Parallel arrays, an entry a call: $1 names, $2 identifiers, $3 data, and either $4 months, $5 milliseconds and $6
     * microseconds of a delay, or $7 milliseconds since 1970. $8 when to notify. Ids are given in the order of the
     * arrays. One notification: of the handler, or of all handlers (no name) when there are several.
     */
    scheduleMany: {
      name: 'future_call_schedule_many',
      text: `
        with scheduled as (
          insert into ${pending.path} (name, identifier, data, due_at)
          select name, identifier, data::jsonb,
            case when at is null then ${afterDelay('months', 'milliseconds', 'microseconds')} else ${atTime('at')} end
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
      text: `
        select ${notify(tables, 'name', 'due_at')} from (select $1::text as name, ${atTime('$2::float8')} as due_at) calls
        where ${isWorthNotifying('$3::text', 'due_at')}`,
    },
    cancel: {
      name: 'future_call_cancel',
      text: `delete from ${pending.path} where identifier = $1 returning id::text as id, name`,
    },
    /** As `cancel`, and keeps the outcome. */
    cancelAndKeep: {
      name: 'future_call_cancel_keep',
      text: `
        with cancelled as (delete from ${pending.path} where identifier = $1 returning *)
        insert into ${outcome.path} (call_id, attempt, ${CALL}, outcome, finished_at)
        select id, attempt, ${CALL}, 'cancelled', clock_timestamp() from cancelled ${REPLACE_OUTCOME}
        returning call_id::text as id, name`,
    },
  } as const satisfies Record<string, Statement>;
}

/** Statements of the engine. They run on the instance's session and nowhere else. */
export function engineStatements(tables: FutureCallTables) {
  const { pending, running, outcome, instance } = tables;

  /** Rows of `running` whose claim token is in three parallel arrays. */
  const byToken = (first: number) =>
    `unnest($${first}::bigint[], $${first + 1}::int[], $${first + 2}::int[]) as token (id, instance_id, claim)`;
  const matchesToken = (alias: string) =>
    `${alias}.id = token.id and ${alias}.instance_id = token.instance_id and ${alias}.claim = token.claim`;

  /** Notifies of calls that went back to `pending` in a CTE `returned`, once a handler. */
  const notifyReturned = `
    select null::bigint, name, ${epochMilliseconds('min(due_at)')}::text, ${notify(tables, 'name', 'min(due_at)')}
    from returned group by name`;

  /** Gives rows that were deleted from `running`, in a CTE `gone`, back to `pending`, as if never claimed. */
  const giveBack = `
    returned as (
      insert into ${pending.path} (id, attempt, ${CALL})
      select id, attempt - 1, ${CALL} from gone ${UNLESS_PENDING} returning id, name, due_at
    )
    select id, name, null, null from returned union all ${notifyReturned}`;

  const withError = (error: string) => `coalesce(gone.errors, '[]') || ${error}`;
  const timed = (error: string) => `(${error}::jsonb || jsonb_build_object('at', ${NOW_AS_ISO}))`;

  const recordEnd = (outcomeOf: string, errorsOf: string, from: string) => `
    insert into ${outcome.path} (call_id, attempt, name, identifier, data, due_at, created_at, outcome, errors,
      instance_id, claim, host, pid, started_at, finished_at)
    select gone.id, gone.attempt, ${prefix('gone', 'name, identifier, data, due_at, created_at')}, ${outcomeOf}, ${errorsOf},
      gone.instance_id, gone.claim, host, pid, gone.claimed_at, clock_timestamp()
    from ${from} ${REPLACE_OUTCOME}`;

  return {
    newInstanceId: {
      text: `select nextval(pg_get_serial_sequence('${escape(instance.path)}', 'id'))::int, '${escape(instance.path)}'::regclass::oid::bigint`,
    },
    /** $1 the instances' table's oid as an int, $2 instance id. */
    lock: { text: `select pg_try_advisory_lock($1::int, $2::int)` },
    unlock: { text: `select pg_advisory_unlock($1::int, $2::int)` },
    listen: (oid: number): Statement => ({ text: `listen "future_call_${oid}"` }),
    register: {
      text: `insert into ${instance.path} (id, host, pid, poll_interval, handlers) values ($1, $2, $3, $4, $5::text::jsonb)`,
    },
    isRegistered: { text: `select exists (select from ${instance.path} where id = $1)` },
    /** The instance's row goes last, and only when nothing runs under it: while it is there, a rescuer looks after it. */
    deregister: {
      text: `delete from ${instance.path} i where id = $1 and not exists (select from ${running.path} r where r.instance_id = i.id)`,
    },

    /**
     * Claims due calls of all handlers at once, by moving them to `running`. Parallel arrays, an entry a handler:
     * $1 names, $2 how many at most, $3 and $4 the watermark; then $5 how many over all handlers, $6 instance,
     * $7 claim, $8 the pid that the backend must have.
     *
     * Nothing is locked that is not claimed: the outer limit stops pulling from the scans, and each scan locks a row
     * when it is pulled. By id, not by ctid: under concurrent updates ctid left rows locked but not moved.
     *
     * The last row has no id: it is how long to wait for the next call that is not due yet, by the same now() that
     * decided what is due, and how far that now() is.
     */
    claim: {
      name: 'future_call_claim',
      text: `
        with moved as (
          delete from ${pending.path} where id = any (array(
            select due.id
            from unnest($1::text[], $2::int[], $3::timestamptz[], $4::bigint[]) as handler (name, free, since_due, since_id)
            cross join lateral (
              select id from ${pending.path} call
              where call.name = handler.name
                and (call.due_at, call.id) > (handler.since_due, handler.since_id) and call.due_at <= now()
              order by call.due_at, call.id limit handler.free for update skip locked
            ) due
            limit $5::int
          )) and pg_backend_pid() = $8::int
          returning id, attempt, ${CALL}
        ), claimed as (
          insert into ${running.path} (id, attempt, instance_id, claim, ${CALL})
          select id, attempt + 1, $6::int, $7::int, ${CALL} from moved
          returning id, name, identifier, data, due_at, attempt
        )
        select id, name, identifier, data, due_at, attempt from claimed
        union all
        select null, pg_backend_pid()::text, (extract(epoch from now()) * 1000)::text, null, (
          select min(next.due_at) from unnest($1::text[]) as handler (name)
          cross join lateral (
            select due_at from ${pending.path} call
            where call.name = handler.name and call.due_at > now() and call.due_at < 'infinity'
            order by call.due_at limit 1
          ) next
        ), null`,
    },

    /** Calls that completed, by claim token. */
    complete: {
      name: 'future_call_complete',
      text: `delete from ${running.path} r using ${byToken(1)} where ${matchesToken('r')}`,
    },
    /** As `complete`, and keeps the outcome. $4 host, $5 pid. */
    completeAndKeep: {
      name: 'future_call_complete_keep',
      text: `
        with gone as (
          delete from ${running.path} r using ${byToken(1)} where ${matchesToken('r')} returning r.*
        )
        ${recordEnd(`'completed'`, 'gone.errors', `gone, (select $4::text as host, $5::int as pid) self`)}`,
    },
    /** Calls that failed, by claim token, and their errors ($4). $5 host, $6 pid. */
    fail: {
      name: 'future_call_fail',
      text: `
        with gone as (
          delete from ${running.path} r
          using unnest($1::bigint[], $2::int[], $3::int[], $4::text[]) as token (id, instance_id, claim, error)
          where ${matchesToken('r')} returning r.*, token.error
        )
        ${recordEnd(
          `'failed'`,
          withError(timed('gone.error')),
          `gone, (select $5::text as host, $6::int as pid) self`,
        )}`,
    },
    /**
     * Attempts that failed and are followed by another one, by claim token: their errors ($4), and when that is: $5
     * milliseconds from now, or $6 milliseconds since 1970.
     */
    retry: {
      name: 'future_call_retry',
      text: `
        with gone as (
          delete from ${running.path} r
          using unnest($1::bigint[], $2::int[], $3::int[], $4::text[], $5::float8[], $6::float8[])
            as token (id, instance_id, claim, error, delay, at)
          where ${matchesToken('r')} returning r.*, token.error, token.delay, token.at
        ), returned as (
          insert into ${pending.path} (id, attempt, name, identifier, data, due_at, errors, created_at)
          select id, attempt, name, identifier, data,
            coalesce('epoch'::timestamptz + at * interval '1 millisecond', clock_timestamp() + delay * interval '1 millisecond'),
            ${withError(timed('gone.error'))}, created_at
          from gone ${UNLESS_PENDING} returning id, name, due_at
        )
        select id, null, null, null from returned union all ${notifyReturned}`,
    },
    /**
     * A completion that found no row: it may have been rescued meanwhile. Its outcome was a guess; this is what
     * happened. A statement of its own, because the snapshot of the one before is older than the rescue.
     */
    correct: {
      name: 'future_call_correct',
      text: `
        update ${outcome.path} o set finished_at = clock_timestamp(),
          outcome = case when token.error is null then 'completed' else 'failed' end,
          errors = case
            when token.error is not null then (o.errors - -1) || ${timed('token.error')}
            else nullif(o.errors - -1, '[]') end
        from unnest($1::bigint[], $2::int[], $3::int[], $4::text[]) as token (id, instance_id, claim, error)
        where o.call_id = token.id and o.instance_id = token.instance_id and o.claim = token.claim
          and o.outcome = 'interrupted'`,
    },
    /** Claimed calls that never started, by claim token. */
    release: {
      name: 'future_call_release',
      text: `with gone as (
          delete from ${running.path} r using ${byToken(1)} where ${matchesToken('r')} returning r.*
        ), ${giveBack}`,
    },
    /** What is claimed by instance $1 but not among the tokens: claims whose answer never arrived. */
    releaseUnknown: {
      text: `with gone as (
          delete from ${running.path} r where r.instance_id = $1::int
            and not exists (select from ${byToken(2)} where ${matchesToken('r')}) returning r.*
        ), ${giveBack}`,
    },

    /**
     * The look: every registered instance and whether its liveness lock is held. $1 the table's oid, $2 whether to
     * look for running calls of instances without a row too, $3 the pid that the backend must have.
     */
    look: {
      name: 'future_call_look',
      text: `
        with held as materialized (
          select objid::bigint as id from pg_locks
          where locktype = 'advisory' and classid = $1::bigint::oid and objsubid = 2 and granted
            and database = (select oid from pg_database where datname = current_database())
        ), known as (
          select id, host, pid from ${instance.path}
          union all
          select distinct r.instance_id, null, null::int from ${running.path} r
          where $2::boolean and not exists (select from ${instance.path} i where i.id = r.instance_id)
        )
        select id, host, pid, id in (select id from held), pg_backend_pid() = $3::int from known`,
    },
    /** Alone in its statement: the next one's snapshot is younger than the last commit of whoever held the lock. */
    lockForRescue: { text: `select pg_try_advisory_xact_lock($1::int, $2::int)` },
    /**
     * Ends the attempts of instance $1: its running calls become `interrupted`, or pending again where the handler
     * allows further attempts, after the default backoff ($3 and $4 in milliseconds). $2 says why. $5 whether
     * interrupted ones are kept.
     */
    interrupt: {
      text: `
        with gone as (
          delete from ${running.path} where instance_id = $1::int returning *
        ), judged as (
          select gone.*, i.host, i.pid, coalesce((i.handlers ->> gone.name)::int > gone.attempt, false) as again,
            ${withError(`jsonb_build_object('attempt', gone.attempt, 'at', ${NOW_AS_ISO}, 'name', 'Interrupted', 'message', $2::text)`)} as history
          from gone left join ${instance.path} i on i.id = gone.instance_id
        ), returned as (
          insert into ${pending.path} (id, attempt, name, identifier, data, due_at, errors, created_at)
          select id, attempt, name, identifier, data,
            clock_timestamp() + least($4::float8, $3::float8 * power(2, least(attempt - 1, 60))) * interval '1 millisecond',
            history, created_at
          from judged where again ${UNLESS_PENDING} returning id, name, due_at
        ), ended as (
          insert into ${outcome.path} (call_id, attempt, name, identifier, data, due_at, created_at, outcome, errors,
            instance_id, claim, host, pid, started_at, finished_at)
          select id, attempt, name, identifier, data, due_at, created_at, 'interrupted', history,
            instance_id, claim, host, pid, claimed_at, clock_timestamp()
          from judged where not again and $5::boolean ${REPLACE_OUTCOME}
        )
        select id, name, identifier, attempt, again::text from judged
        union all select null, null, null, null, null from (${notifyReturned}) told`,
    },
    /** Deletes one batch of outcomes $1 that are older than $2 milliseconds; one instance at a time. */
    prune: {
      text: `
        delete from ${outcome.path} where call_id = any (array(
          select call_id from ${outcome.path}
          where outcome = $1::text and finished_at < now() - $2::float8 * interval '1 millisecond'
            and (select pg_try_advisory_xact_lock($3::int, 0))
          order by finished_at limit ${PRUNE_BATCH}
        ))`,
    },
    /** Names that calls are pending for, and that no instance has a handler for. A step in the index for each name. */
    namesWithoutHandler: {
      text: `
        with recursive pending_name as (
          (select name from ${pending.path} order by name limit 1)
          union all
          select (select call.name from ${pending.path} call where call.name > pending_name.name order by call.name limit 1)
          from pending_name where pending_name.name is not null
        )
        select name from pending_name where name is not null
          and not exists (select from ${instance.path} i where i.handlers ? pending_name.name)
        limit 20`,
    },
    removeInstance: { text: `delete from ${instance.path} where id = $1` },
  };
}
