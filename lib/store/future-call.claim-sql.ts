import type { FutureCallTables } from '../tables/future-call.tables.js';
import type { SqlTime } from './future-call.clock.js';
import { CALL } from './future-call.sql.js';

/** Statements that claim due calls. They run on the instance's session and nowhere else. */
export function claimStatements({ pending, running }: FutureCallTables, time: SqlTime) {
  /** A handler's due calls beyond its watermark. */
  const due = (unless: string) => `
    from ${pending.path} call
    where call.name = handler.name
      and (call.due_at, call.id) > (handler.since_due, handler.since_id) and call.due_at <= ${time.now} ${unless}`;

  /**
   * Claims due calls of all handlers at once, by moving them to `running`. Parallel arrays, an entry a handler:
   * $1 names, $2 how many at most, $3 and $4 the watermark, $5 from when its next call is looked for, in milliseconds
   * since 1970; then $6 how many over all handlers, $7 instance, $8 claim, $9 the pid that the backend must have,
   * $10 for how many milliseconds from now the next call is looked for, $11 whether what is locked is told also when all
   * that was asked for is claimed.
   *
   * Nothing is locked that is not claimed: the outer limit stops pulling from the scans, and each scan locks a row
   * when it is pulled. By id, not by ctid: under concurrent updates ctid left rows locked but not moved.
   *
   * Rows without an id follow. Those with a name: the first due call of that handler that is not claimed, although
   * there was a slot for it, because somebody has it locked (another instance that claims it, or a transaction that
   * cancels it): its id and due time. With $11 it may also be one that only comes after all those that were claimed. The
   * last row has the backend's pid, the now() that decided what is due, and when
   * the next call is due that was not due by it.
   */
  const claim = (unless = '') => `
    with moved as (
      delete from ${pending.path} where id = any (array(
        select due.id
        from unnest($1::text[], $2::int[], $3::timestamptz[], $4::bigint[]) as handler (name, free, since_due, since_id)
        cross join lateral (
          select id ${due(unless)}
          order by call.due_at, call.id limit handler.free for update of call skip locked
        ) due
        limit $6::int
      )) and pg_backend_pid() = $9::int
      returning id, attempt, ${CALL}
    ), claimed as (
      insert into ${running.path} (id, attempt, instance_id, claim, claimed_at, ${CALL})
      select id, least(attempt, 2147483646) + 1, $7::int, $8::int, ${time.now}, ${CALL} from moved
      returning id, name, identifier, data, due_at, attempt
    )
    select id, name, identifier, data, due_at, attempt from claimed
    union all
    select null, handler.name, locked.id::text, null, locked.due_at, null
    from unnest($1::text[], $2::int[], $3::timestamptz[], $4::bigint[]) as handler (name, free, since_due, since_id)
    cross join lateral (
      select call.id, call.due_at ${due(unless)} and (call.id in (select id from moved)) is not true
      order by call.due_at, call.id limit 1
    ) locked
    where $11::boolean or (select count(*) from moved) < $6::int
      and (select count(*) from moved where moved.name = handler.name) < handler.free
    union all
    select null, null, pg_backend_pid()::text, to_jsonb(extract(epoch from ${time.now}) * 1000), (
      select min(next.due_at) from unnest($1::text[], $5::float8[]) as handler (name, next_from)
      cross join lateral (
        select due_at from ${pending.path} call
        where call.name = handler.name and call.due_at > ${time.now}
          and call.due_at >= 'epoch'::timestamptz + handler.next_from * interval '1 millisecond'
          and call.due_at <= ${time.now} + $10::float8 * interval '1 millisecond'
        order by call.due_at limit 1
      ) next
    ), null`;

  return {
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
  };
}
