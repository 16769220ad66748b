import type { FutureCallTables } from '../tables/future-call.tables.js';
import type { SqlTime } from './future-call.clock.js';
import {
  afterMilliseconds,
  CALL,
  momentAsIso,
  notify,
  REPLACE_OUTCOME,
  UNLESS_PENDING,
} from './future-call.sql.js';

/** The columns of a running call, by name: a column that a later release adds must not get in the way of this one. */
const RUNNING = (alias?: string) =>
  `id, attempt, ${CALL}, instance_id, claim, claimed_at`
    .split(', ')
    .map((column) => (alias === undefined ? column : `${alias}.${column}`))
    .join(', ');

/** Over how many times half a backoff calls are spread at the most that come back from a dead process. */
const MOST_SPREAD = 20;

/**
 * Statements that end attempts, or give claimed calls back. They run on the instance's session and nowhere else. None
 * waits for a row that somebody has locked, or a transaction of the user's that holds one would stop the whole instance:
 * what was passed over is tried again later.
 */
export function endingStatements(tables: FutureCallTables, time: SqlTime) {
  const { pending, running, outcome, instance } = tables;

  // How an ending statement finds its rows, given claim tokens in three parallel arrays: $1, $2 and $3. Plain equality
  // would let the planner walk all of `running` along an index instead, for each token, and a plan that was made while
  // the table was empty is kept: 425 µs a call, not 2.

  const inTokens = `(r.id, r.instance_id, r.claim) in (select id, instance_id, claim
    from unnest($1::bigint[], $2::int[], $3::int[]) as token (id, instance_id, claim))`;
  /** One walk of the primary key for all tokens, and a hash table of them. A bare `in` could become a join. */
  const isAmongTokens = `r.id = any ($1::bigint[]) and (${inTokens}) is true`;
  /** Where more comes with each token: a probe of the primary key for each, at twice the price. */
  const matches = (id: string, row: string) =>
    `${id} between token.id and token.id and ${row}.instance_id + 0 = token.instance_id and ${row}.claim = token.claim`;

  /** Of these running calls, `r`, those that nobody has locked. */
  const unlocked = (condition: string) =>
    `id = any (array(select r.id from ${running.path} r where ${condition} for update of r skip locked))`;
  /**
   * To lock rows first costs a third of what it costs to delete them, so what completes is deleted as it is. A row that
   * somebody has locked, now or ever, has an `xmax`, and is left for a statement that looks closer.
   */
  const isUntouched = `r.xmax = '0'::xid`;

  /** Ends of running calls, with what comes with each token: deletes those that nobody has locked, as a CTE `gone`. */
  const endEach = (columns: string, types: string) => `
    free as (
      select r.id, ${columns}
      from unnest($1::bigint[], $2::int[], $3::int[], ${types}) as token (id, instance_id, claim, ${columns})
      cross join lateral (
        select r.id from ${running.path} r where ${matches('r.id', 'r')} for update of r skip locked
      ) r
    ), gone as (
      delete from ${running.path} r using free where r.id between free.id and free.id
      returning ${RUNNING('r')}, ${columns}
    )`;

  /** Notifies of calls that went back to `pending` in a CTE `returned`, once a handler. */
  const notifyReturned = (columns: string) => `
    select ${columns}, ${notify(tables, 'name', 'min(due_at)')}::text from returned group by name`;

  const withError = (error: string) => `coalesce(gone.errors, '[]') || ${error}`;
  const timed = (error: string) => `(${error}::jsonb || jsonb_build_object('at', ${momentAsIso(time)}))`;

  /** Writes outcomes of the calls in `from`, which knows who ran them. */
  const recordEnd = (outcomeOf: string, errorsOf: string, from: string) => `
    insert into ${outcome.path} (call_id, attempt, name, identifier, data, due_at, created_at, outcome, errors,
      instance_id, claim, host, pid, started_at, finished_at)
    select id, attempt, name, identifier, data, due_at, created_at, ${outcomeOf}, ${errorsOf},
      instance_id, claim, host, pid, claimed_at, ${time.moment}
    from ${from} ${REPLACE_OUTCOME}`;

  const completeAndKeep = (condition: string) => `
    with gone as (
      delete from ${running.path} r where ${condition} returning ${RUNNING('r')}
    )
    ${recordEnd(`'completed'`, 'gone.errors', `gone, (select $4::text as host, $5::int as pid) self`)} returning call_id`;

  /**
   * Gives claimed calls back to `pending`, as if they had never been claimed: the rows 'released'. The rows 'locked' are
   * those that somebody has locked.
   */
  const giveBack = (condition: string) => `
    with gone as (
      delete from ${running.path} where ${unlocked(condition)} returning ${RUNNING()}
    ), returned as (
      insert into ${pending.path} (id, attempt, ${CALL})
      select id, attempt - 1, ${CALL} from gone ${UNLESS_PENDING} returning id, name, identifier, due_at
    )
    select 'released', id, name, identifier, null::int, null from returned
    union all
    select 'locked', r.id, r.name, r.identifier, r.claim, null from ${running.path} r
    where ${condition} and (r.id in (select id from gone)) is not true
    union all ${notifyReturned(`'told', null, name, null, null`)}`;

  /** Of calls that were interrupted together. */
  const backoff =
    'case when $6::boolean then least($4::float8, $3::float8 * power(2, least(attempt - 1, 60))) else $3::float8 end';
  const spread = `case when $6::boolean then (select least(count(*), ${MOST_SPREAD}) from judged) else 1 end`;

  return {
    /** Calls that completed, by claim token; not those whose row was ever locked. */
    complete: {
      name: 'future_call_complete',
      text: `delete from ${running.path} r where ${isAmongTokens} and ${isUntouched}`,
    },
    /** As `complete`, and keeps the outcome. $4 host, $5 pid. */
    completeAndKeep: {
      name: 'future_call_complete_keep',
      text: completeAndKeep(`${isAmongTokens} and ${isUntouched}`),
    },
    /** As `complete`, for those that it has left: all but those whose row is locked right now. Answers with their ids. */
    completeUnlocked: {
      text: `delete from ${running.path} r where r.${unlocked(isAmongTokens)} returning r.id`,
    },
    /** As `completeAndKeep`, for those that it has left. Answers with their ids. */
    completeUnlockedAndKeep: { text: completeAndKeep(`r.${unlocked(isAmongTokens)}`) },
    /** Calls that failed, by claim token, and their errors ($4). $5 host, $6 pid. Answers with the ids of those ended. */
    fail: {
      name: 'future_call_fail',
      text: `
        with ${endEach('error', '$4::text[]')}
        ${recordEnd(
          `'failed'`,
          withError(timed('gone.error')),
          `gone, (select $5::text as host, $6::int as pid) self`,
        )} returning call_id`,
    },
    /**
     * Attempts that failed and are followed by another one, by claim token: their errors ($4), and when that is: $5
     * milliseconds from now, or $6 milliseconds since 1970. Answers with the ids of those ended.
     */
    retry: {
      name: 'future_call_retry',
      text: `
        with ${endEach('error, delay, at', '$4::text[], $5::float8[], $6::float8[]')}, returned as (
          insert into ${pending.path} (id, attempt, name, identifier, data, due_at, errors, created_at)
          select id, attempt, name, identifier, data,
            coalesce('epoch'::timestamptz + at * interval '1 millisecond', ${afterMilliseconds(time, 'delay')}),
            ${withError(timed('gone.error'))}, created_at
          from gone ${UNLESS_PENDING} returning id, name, due_at
        )
        select id, null from gone union all ${notifyReturned('null')}`,
    },
    /**
     * Ends that found no row: the call may have been rescued meanwhile. Its outcome was a guess; this is what happened.
     * A statement of its own, because the snapshot of the one before is older than the rescue. $4 errors, null where it
     * completed. Answers with the ids of those that were corrected.
     */
    correct: {
      text: `
        with free as (
          select o.call_id, token.error from unnest($1::bigint[], $2::int[], $3::int[], $4::text[]) as token (id, instance_id, claim, error)
          cross join lateral (
            select o.call_id from ${outcome.path} o
            where ${matches('o.call_id', 'o')} and o.outcome || '' = 'interrupted' for update of o skip locked
          ) o
        )
        update ${outcome.path} o set finished_at = ${time.moment},
          outcome = case when free.error is null then 'completed' else 'failed' end,
          errors = case
            when free.error is not null then (o.errors - -1) || ${timed('free.error')}
            else nullif(o.errors - -1, '[]') end
        from free where o.call_id between free.call_id and free.call_id returning o.call_id`,
    },
    /**
     * What there is of ends that found no row that they could take, by claim token: whether the call still runs, and its
     * outcome.
     */
    whereabouts: {
      text: `
        select token.id, exists (select from ${running.path} r where ${matches('r.id', 'r')}),
          (select o.outcome from ${outcome.path} o where ${matches('o.call_id', 'o')})
        from unnest($1::bigint[], $2::int[], $3::int[]) as token (id, instance_id, claim)`,
    },
    /** Claimed calls that never started, by claim token. */
    release: { name: 'future_call_release', text: giveBack(isAmongTokens) },
    /** What is claimed by instance $4 but not among the tokens: claims whose answer never arrived. */
    releaseUnknown: { text: giveBack(`r.instance_id = $4::int and not ${inTokens}`) },
    /**
     * Ends the attempts of instance $1: its running calls become `interrupted`, or pending again where the handler
     * allows further attempts, after the default backoff ($3 and $4 in milliseconds), the last half of it at random. $2
     * says why. $5 whether interrupted ones are kept. $6 whether an attempt is spent: then one of them may have killed its
     * process, and must not take the same neighbours down again, so the more they are the further apart they come back.
     */
    interrupt: {
      text: `
        with gone as (
          delete from ${running.path} where ${unlocked('r.instance_id = $1::int')} returning ${RUNNING()}
        ), judged as (
          select ${RUNNING('gone')}, i.host, i.pid,
            coalesce((i.handlers ->> gone.name)::int > case when $6::boolean then gone.attempt else 1 end, false) as again,
            ${withError(`jsonb_build_object('attempt', gone.attempt, 'at', ${momentAsIso(time)}, 'name', 'Interrupted', 'message', $2::text)`)} as history
          from gone left join ${instance.path} i on i.id = gone.instance_id
        ), returned as (
          insert into ${pending.path} (id, attempt, name, identifier, data, due_at, errors, created_at)
          select id, case when $6::boolean then attempt else attempt - 1 end, name, identifier, data,
            ${afterMilliseconds(time, `(${backoff} * (1 + random() * ${spread}) / 2)`)},
            history, created_at
          from judged where again ${UNLESS_PENDING} returning id, name, due_at
        ), ended as (
          ${recordEnd(`'interrupted'`, 'history', 'judged where not again and $5::boolean')}
        )
        select id, name, identifier, attempt, again::text, null from judged
        union all ${notifyReturned('null, null, null, null, null')}`,
    },
  };
}
