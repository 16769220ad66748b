import type { FutureCallConnection } from './future-call.connection.js';

/**
 * What has become of a session that does not answer. `lost`: its backend is gone, and the lock with it; `busy`: the server
 * is slow, or has much to do; `silent`: the server waits for us, or has answered.
 */
export type SessionState = 'lost' | 'busy' | 'silent' | 'unknown';

/** Whose state is asked for. */
export interface SessionInQuestion {
  /** The oid of the instances' table. */
  readonly tableOid: number;
  readonly instanceId: number;
  readonly backend: number;
}

/** $1 the oid of the instances' table, $2 instance id, $3 the backend's pid. */
const STATE = `
  select case
    when pg_is_in_recovery() then 'unknown'
    when l.pid is null then 'lost'
    when a.state = 'active' and a.wait_event_type is distinct from 'Client' then 'busy'
    else 'silent' end
  from (select $3::int as pid) self
  left join pg_locks l on l.pid = self.pid and l.locktype = 'advisory' and l.classid = $1::bigint::oid
    and l.objid = $2::bigint::oid and l.objsubid = 2 and l.granted
    and l.database = (select oid from pg_database where datname = current_database())
  left join pg_stat_activity a on a.pid = self.pid`;

/**
 * Asks on another connection. An answer that was swallowed on its way leaves the backend active too, but waiting for its
 * client; and a replica, to which a balancer may lead, knows of no lock.
 */
export async function lookAtSession(
  connection: FutureCallConnection,
  { tableOid, instanceId, backend }: SessionInQuestion,
): Promise<SessionState> {
  const {
    rows: [row],
  } = await connection.query({ text: STATE }, [tableOid, instanceId, backend]);
  return row![0] as SessionState;
}
