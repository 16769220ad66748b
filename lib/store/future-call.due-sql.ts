import type { FutureCallTables } from '../tables/future-call.tables.js';
import type { SqlTime } from './future-call.clock.js';
import type { PoolStatement } from './future-call.pool.js';
import {
  epochMilliseconds,
  firstDueAt,
  hidesRows,
  instanceTableOid,
  oldOutcomes,
  pruneOutcomes,
  withNamesOfTexts,
} from './future-call.sql.js';

/** Statements of a process that runs calls only now and then: what it would have to do. On the app's own connections. */
export function dueStatements(tables: FutureCallTables, time: SqlTime) {
  const { pending, running, outcome, instance } = tables;
  const { kept, old } = oldOutcomes(tables, time);

  /** Calls run, or are said to, under an instance whose liveness lock nobody holds. */
  const mayHaveToRescue = `
    exists (
      select from (
        select id from ${instance.path} union select instance_id from ${running.path}
      ) known where not exists (
        select from pg_locks l
        where l.locktype = 'advisory' and l.classid = ${instanceTableOid(tables)} and l.objid::bigint = known.id
          and l.objsubid = 2 and l.granted
          and l.database = (select oid from pg_database where datname = current_database())
      )
    )`;

  return withNamesOfTexts({
    /** What there is to do for the handlers $3; $1 and $2 as `pruneBatch` has them. */
    lookForWork: {
      name: 'future_call_due',
      summary: `select from ${pending.name}`,
      text: `
        select case when due_at is not null then ${epochMilliseconds('due_at')}::text end as "nextDueAt",
          coalesce(due_at <= ${time.now}, false) as "isDue",
          ${mayHaveToRescue} as "mayHaveToRescue",
          exists (select from ${kept} where exists (select from ${old})) as "mayPrune",
          case when ${hidesRows(pending)} then current_user::text end as "blindRole"
        from (${firstDueAt(tables, '$3')}) next`,
    },
    /** $1 the kinds of outcomes, $2 for how many milliseconds each is kept. */
    pruneBatch: {
      name: 'future_call_prune_batch',
      summary: `delete from ${outcome.name}`,
      text: pruneOutcomes(tables, time),
    },
  } satisfies Record<string, PoolStatement>);
}
