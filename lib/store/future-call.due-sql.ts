import type { FutureCallTables } from '../tables/future-call.tables.js';
import type { SqlTime } from './future-call.clock.js';
import type { PoolStatement } from './future-call.pool.js';
import { epochMilliseconds, escape, withNamesOfTexts } from './future-call.sql.js';

/** How many outcomes of a kind are deleted in one statement. */
const PRUNE_BATCH = 1_000;

/** Statements of a process that runs calls only now and then: what it would have to do. On the app's own connections. */
export function dueStatements({ pending, running, outcome, instance }: FutureCallTables, time: SqlTime) {
  const oid = `'${escape(instance.path)}'::regclass::oid`;

  /** Calls run, or are said to, under an instance whose liveness lock nobody holds. */
  const mayHaveToRescue = `
    exists (
      select from (
        select id from ${instance.path} union select instance_id from ${running.path}
      ) known where not exists (
        select from pg_locks l
        where l.locktype = 'advisory' and l.classid = ${oid} and l.objid = known.id::bigint::oid and l.objsubid = 2
          and l.granted and l.database = (select oid from pg_database where datname = current_database())
      )
    )`;

  /** Outcomes that were kept long enough: $2 which, and $3 for how many milliseconds. */
  const isOld = `o.outcome = kept.outcome and o.finished_at < ${time.now} - kept.milliseconds * interval '1 millisecond'`;
  const kept = (outcomes: string, milliseconds: string) =>
    `unnest(${outcomes}::text[], ${milliseconds}::float8[]) as kept (outcome, milliseconds)`;

  return withNamesOfTexts({
    /** What there is to do for the handlers $1; see `isOld` for $2 and $3. */
    lookForWork: {
      name: 'future_call_due',
      summary: `select from ${pending.name}`,
      text: `
        select case when next.due_at is not null then ${epochMilliseconds('next.due_at')}::text end as "nextDueAt",
          coalesce(next.due_at <= ${time.now}, false) as "isDue",
          ${mayHaveToRescue} as "mayHaveToRescue",
          exists (
            select from ${kept('$2', '$3')} where exists (select from ${outcome.path} o where ${isOld})
          ) as "mayPrune"
        from (
          select min(first.due_at) as due_at from unnest($1::text[]) as handler (name)
          cross join lateral (
            select due_at from ${pending.path} call
            where call.name = handler.name and call.due_at < 'infinity' order by call.due_at, call.id limit 1
          ) first
        ) next`,
    },
    /** Deletes a batch of each kind of old outcomes, $1 and $2 as in `isOld`, unless an instance is at it. */
    pruneBatch: {
      name: 'future_call_prune_due',
      summary: `delete from ${outcome.name}`,
      text: `
        delete from ${outcome.path} where call_id = any (array(
          select old.call_id from ${kept('$1', '$2')}
          cross join lateral (
            select call_id from ${outcome.path} o where ${isOld} order by o.finished_at limit ${PRUNE_BATCH}
          ) old
          where (select pg_try_advisory_xact_lock(${oid}::bigint::bit(32)::int, 0))
        ))`,
    },
  } satisfies Record<string, PoolStatement>);
}
