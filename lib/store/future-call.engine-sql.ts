import type { FutureCallTables } from '../tables/future-call.tables.js';
import type { SqlTime } from './future-call.clock.js';
import type { Statement } from './future-call.connection.js';
import { claimStatements } from './future-call.claim-sql.js';
import { endingStatements } from './future-call.ending-sql.js';
import {
  epochMilliseconds,
  escape,
  firstDueAt,
  instanceTableOid,
  pruneOutcomes,
  withNamesOfTexts,
} from './future-call.sql.js';

export type EngineStatements = ReturnType<typeof engineStatements>;

/** Statements of the engine. They run on the instance's session and nowhere else. */
export function engineStatements(tables: FutureCallTables, time: SqlTime) {
  const { pending, running, instance } = tables;

  return withNamesOfTexts({
    ...claimStatements(tables, time),
    ...endingStatements(tables, time),
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
    /**
     * Takes the row of instance $1 away when nothing runs under it: while it is there, a rescuer looks after what does.
     * Not when somebody has locked it.
     */
    removeInstance: {
      text: `
        delete from ${instance.path} where id = any (array(
          select i.id from ${instance.path} i
          where i.id = $1::int and not exists (select from ${running.path} r where r.instance_id = i.id)
          for update of i skip locked
        ))`,
    },
    /** Whether something is left of instance $1: its row, or running calls. */
    isLeft: {
      text: `
        select exists (select from ${instance.path} where id = $1::int)
          or exists (select from ${running.path} where instance_id = $1::int)`,
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
  });
}
