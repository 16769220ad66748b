import type { FutureCallTables } from '../tables/future-call.tables.js';
import type { SqlTime } from './future-call.clock.js';
import type { Statement } from './future-call.connection.js';
import {
  afterMilliseconds,
  CALL,
  epochMilliseconds,
  escape,
  firstDueAt,
  instanceTableOid,
  momentAsIso,
  notify,
  pruneOutcomes,
  withNamesOfTexts,
  REPLACE_OUTCOME,
  UNLESS_PENDING,
} from './future-call.sql.js';

/** The columns of a running call, by name: a column that a later release adds must not get in the way of this one. */
const RUNNING = (alias?: string) =>
  `id, attempt, ${CALL}, instance_id, claim, claimed_at`
    .split(', ')
    .map((column) => (alias === undefined ? column : `${alias}.${column}`))
    .join(', ');

export type EngineStatements = ReturnType<typeof engineStatements>;

/** Statements of the engine. They run on the instance's session and nowhere else. */
export function engineStatements(tables: FutureCallTables, time: SqlTime) {
  const { pending, running, outcome, instance } = tables;

  // How an ending statement finds its rows, given claim tokens in three parallel arrays: $1, $2 and $3. Plain equality
  // would let the planner walk all of `running` along an index instead, for each token, and a plan that was made while
  // the table was empty is kept: 425 µs a call, not 2.

  const inTokens = `(r.id, r.instance_id, r.claim) in (select id, instance_id, claim
    from unnest($1::bigint[], $2::int[], $3::int[]) as token (id, instance_id, claim))`;
  /** One walk of the primary key for all tokens, and a hash table of them. A bare `in` could become a join. */
  const isAmongTokens = `r.id = any ($1::bigint[]) and (${inTokens}) is true`;
  /** Where more comes with each token: a probe of the primary key for each, at twice the price. */
  const matchesToken =
    'r.id between token.id and token.id and r.instance_id + 0 = token.instance_id and r.claim = token.claim';

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
  const timed = (error: string) => `(${error}::jsonb || jsonb_build_object('at', ${momentAsIso(time)}))`;

  /** Writes outcomes of the calls in `from`, which knows who ran them. */
  const recordEnd = (outcomeOf: string, errorsOf: string, from: string) => `
    insert into ${outcome.path} (call_id, attempt, name, identifier, data, due_at, created_at, outcome, errors,
      instance_id, claim, host, pid, started_at, finished_at)
    select id, attempt, name, identifier, data, due_at, created_at, ${outcomeOf}, ${errorsOf},
      instance_id, claim, host, pid, claimed_at, ${time.moment}
    from ${from} ${REPLACE_OUTCOME}`;

  /**
   * Claims due calls of all handlers at once, by moving them to `running`. Parallel arrays, an entry a handler:
   * $1 names, $2 how many at most, $3 and $4 the watermark; then $5 how many over all handlers, $6 instance,
   * $7 claim, $8 the pid that the backend must have.
   *
   * Nothing is locked that is not claimed: the outer limit stops pulling from the scans, and each scan locks a row
   * when it is pulled. By id, not by ctid: under concurrent updates ctid left rows locked but not moved.
   *
   * The last row has no id. It has the backend's pid, the now() that decided what is due, and when the next call is due
   * that was not due by it.
   */
  const claim = (unless = '') => `
    with moved as (
      delete from ${pending.path} where id = any (array(
        select due.id
        from unnest($1::text[], $2::int[], $3::timestamptz[], $4::bigint[]) as handler (name, free, since_due, since_id)
        cross join lateral (
          select id from ${pending.path} call
          where call.name = handler.name
            and (call.due_at, call.id) > (handler.since_due, handler.since_id) and call.due_at <= ${time.now} ${unless}
          order by call.due_at, call.id limit handler.free for update of call skip locked
        ) due
        limit $5::int
      )) and pg_backend_pid() = $8::int
      returning id, attempt, ${CALL}
    ), claimed as (
      insert into ${running.path} (id, attempt, instance_id, claim, claimed_at, ${CALL})
      select id, least(attempt, 2147483646) + 1, $6::int, $7::int, ${time.now}, ${CALL} from moved
      returning id, name, identifier, data, due_at, attempt
    )
    select id, name, identifier, data, due_at, attempt from claimed
    union all
    select null, pg_backend_pid()::text, (extract(epoch from ${time.now}) * 1000)::text, null, (
      select min(next.due_at) from unnest($1::text[]) as handler (name)
      cross join lateral (
        select due_at from ${pending.path} call
        where call.name = handler.name and call.due_at > ${time.now} and call.due_at < 'infinity'
        order by call.due_at limit 1
      ) next
    ), null`;

  return withNamesOfTexts({
    newInstanceId: {
      text: `select nextval(pg_get_serial_sequence('${escape(instance.path)}', 'id'))::int, ${instanceTableOid(tables)}::bigint`,
    },
    /** $1 the instances' table's oid as an int, $2 instance id. */
    lock: { text: `select pg_try_advisory_lock($1::int, $2::int)` },
    unlock: { text: `select pg_advisory_unlock($1::int, $2::int)` },
    listen: (oid: number): Statement => ({ text: `listen "future_call_${oid}"` }),
    /** No row: the id was used before, as after `truncate … restart identity`, and something of that is left. */
    register: {
      text: `insert into ${instance.path} (id, host, pid, poll_interval, handlers, started_at)
        select $1::int, $2, $3::int, $4::int, $5::text::jsonb, ${time.now}
        where not exists (select from ${running.path} r where r.instance_id = $1::int)
        on conflict (id) do nothing returning started_at::text`,
    },
    /** The same row once more; $6 when it registered. */
    registerAgain: {
      text: `insert into ${instance.path} (id, host, pid, poll_interval, handlers, started_at)
        values ($1, $2, $3, $4, $5::text::jsonb, $6::timestamptz) on conflict (id) do nothing`,
    },
    /** Whether this very session holds the lock of instance $2. $1 the table's oid. */
    holdsLock: {
      text: `
        select exists (
          select from pg_locks
          where locktype = 'advisory' and classid = $1::bigint::oid and objid = $2::bigint::oid and objsubid = 2
            and granted and pid = pg_backend_pid()
            and database = (select oid from pg_database where datname = current_database())
        )`,
    },
    /** Ends whoever holds the lock of instance $2 and has signed with its name, $3: not a rescuer. $1 the table's oid. */
    terminateOwnBackends: {
      text: `
        select pg_terminate_backend(a.pid) from pg_stat_activity a join pg_locks l on l.pid = a.pid
        where l.locktype = 'advisory' and l.classid = $1::bigint::oid and l.objid = $2::bigint::oid and l.objsubid = 2
          and l.granted and l.database = (select oid from pg_database where datname = current_database())
          and a.application_name = $3 and a.pid <> pg_backend_pid()`,
    },
    /** $1 id, $2 host, $3 pid, $4 when it registered. */
    isRegistered: {
      text: `select exists (select from ${instance.path} where id = $1 and host = $2 and pid = $3 and started_at = $4::timestamptz)`,
    },
    /** The instance's row goes last, and only when nothing runs under it: while it is there, a rescuer looks after it. */
    deregister: {
      text: `delete from ${instance.path} i where id = $1 and not exists (select from ${running.path} r where r.instance_id = i.id)`,
    },

    claim: { name: 'future_call_claim', text: claim() },
    /**
     * As `claim`, and leaves calls alone that somebody inserted with the id of a running one. They wait for that one to
     * end. Looking costs a tenth of the throughput, so it is done only where a claim has failed for it.
     */
    claimBesideTwins: {
      name: 'future_call_claim_beside_twins',
      // A subquery that cannot become a join: it stays one probe of the primary key a call.
      text: claim(`and (select true from ${running.path} twin where twin.id = call.id) is null`),
    },

    /** Calls that completed, by claim token. */
    complete: {
      name: 'future_call_complete',
      text: `delete from ${running.path} r where ${isAmongTokens}`,
    },
    /** As `complete`, and keeps the outcome. $4 host, $5 pid. */
    completeAndKeep: {
      name: 'future_call_complete_keep',
      text: `
        with gone as (
          delete from ${running.path} r where ${isAmongTokens} returning ${RUNNING('r')}
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
          where ${matchesToken} returning ${RUNNING('r')}, token.error
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
          where ${matchesToken} returning ${RUNNING('r')}, token.error, token.delay, token.at
        ), returned as (
          insert into ${pending.path} (id, attempt, name, identifier, data, due_at, errors, created_at)
          select id, attempt, name, identifier, data,
            coalesce('epoch'::timestamptz + at * interval '1 millisecond', ${afterMilliseconds(time, 'delay')}),
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
        update ${outcome.path} o set finished_at = ${time.moment},
          outcome = case when token.error is null then 'completed' else 'failed' end,
          errors = case
            when token.error is not null then (o.errors - -1) || ${timed('token.error')}
            else nullif(o.errors - -1, '[]') end
        from unnest($1::bigint[], $2::int[], $3::int[], $4::text[]) as token (id, instance_id, claim, error)
        where o.call_id between token.id and token.id and o.instance_id = token.instance_id and o.claim = token.claim
          and o.outcome || '' = 'interrupted'`,
    },
    /** Claimed calls that never started, by claim token. */
    release: {
      name: 'future_call_release',
      text: `with gone as (
          delete from ${running.path} r where ${isAmongTokens} returning ${RUNNING('r')}
        ), ${giveBack}`,
    },
    /** What is claimed by instance $4 but not among the tokens: claims whose answer never arrived. */
    releaseUnknown: {
      text: `with gone as (
          delete from ${running.path} r where r.instance_id = $4::int and not ${inTokens}
          returning ${RUNNING('r')}
        ), ${giveBack}`,
    },

    /**
     * The look: every registered instance and whether its liveness lock is held. $1 the table's oid, $2 whether to
     * look for running calls of instances without a row too. Every row has the backend's pid.
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
        select id, host, pid, id in (select id from held), pg_backend_pid() from known`,
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
          delete from ${running.path} where instance_id = $1::int returning ${RUNNING()}
        ), judged as (
          select ${RUNNING('gone')}, i.host, i.pid, coalesce((i.handlers ->> gone.name)::int > gone.attempt, false) as again,
            ${withError(`jsonb_build_object('attempt', gone.attempt, 'at', ${momentAsIso(time)}, 'name', 'Interrupted', 'message', $2::text)`)} as history
          from gone left join ${instance.path} i on i.id = gone.instance_id
        ), returned as (
          insert into ${pending.path} (id, attempt, name, identifier, data, due_at, errors, created_at)
          select id, attempt, name, identifier, data,
            ${afterMilliseconds(time, 'least($4::float8, $3::float8 * power(2, least(attempt - 1, 60)))')},
            history, created_at
          from judged where again ${UNLESS_PENDING} returning id, name, due_at
        ), ended as (
          ${recordEnd(`'interrupted'`, 'history', 'judged where not again and $5::boolean')}
        )
        select id, name, identifier, attempt, again::text from judged
        union all select null, null, null, null, null from (${notifyReturned}) told`,
    },
    /** $1 the kinds of outcomes, $2 for how many milliseconds each is kept. */
    prune: { text: pruneOutcomes(tables, time) },
    /** When the first pending call of the handlers $1 is due, in milliseconds since 1970. */
    nextDueAt: {
      text: `select case when due_at is not null then ${epochMilliseconds('due_at')} end from (${firstDueAt(tables, '$1')}) next`,
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
  });
}
