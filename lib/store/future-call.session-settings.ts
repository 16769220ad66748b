import type { FutureCallConnection } from './future-call.connection.js';

/**
 * Sets what the engine's session must have, whatever the role, the database or the data source say. Each line is for
 * a failure that was seen.
 */
export async function configureSession(connection: FutureCallConnection, rescueAfter: number): Promise<void> {
  const settings: Record<string, string> = {
    // Each statement of a claim, a completion and a rescue needs its own, young snapshot.
    default_transaction_isolation: 'read committed',
    default_transaction_read_only: 'off',
    // No statement of ours waits long for a lock: the next try does. Shorter than the probe's deadline, or somebody's
    // lock on a table would look like a dead connection.
    lock_timeout: `${Math.max(rescueAfter, 2_500)}ms`,
    statement_timeout: '60s',
    idle_in_transaction_session_timeout: '60s',
    // The look resets it. PostgreSQL itself ends the session of a frozen process, which keepalives never see.
    idle_session_timeout: `${Math.max(30_000, 6 * rescueAfter)}ms`,
    // All names are qualified: nobody's search_path decides what we touch.
    search_path: 'pg_catalog, pg_temp',
    // A policy that hides rows from us makes a statement fail: else calls would never run, and nobody would know why.
    row_security: 'off',
    // The text that parseTimestamp() reads.
    timezone: 'UTC',
    datestyle: 'ISO',
    // A plan made while a table was empty or never analyzed would sort or scan everything that is due, for ever.
    plan_cache_mode: 'force_generic_plan',
    jit: 'off',
    enable_seqscan: 'off',
    enable_bitmapscan: 'off',
    enable_sort: 'off',
    enable_hashjoin: 'off',
    enable_mergejoin: 'off',
  };
  const list = Object.keys(settings).map((name, i) => `set_config('${name}', $${i + 1}, false)`);
  await connection.query({ text: `select ${list.join(', ')}` }, Object.values(settings));

  // A claim that is lost in a crash of the server would start twice. Raised, never lowered.
  await connection.query({
    text: `select set_config('synchronous_commit', 'on', false) where current_setting('synchronous_commit') in ('off', 'local')`,
  });

  // A host that vanished is seen in seconds instead of two hours. Not every platform has every one of these, and none
  // works on a Unix socket: the session timeout above is what holds everywhere.
  const seconds = Math.max(1, Math.round(rescueAfter / 3_000));
  const optional: Record<string, string> = {
    client_connection_check_interval: `${rescueAfter}ms`,
    tcp_keepalives_idle: `${seconds}`,
    tcp_keepalives_interval: `${seconds}`,
    tcp_keepalives_count: '3',
    tcp_user_timeout: `${3 * seconds * 1_000}ms`,
    // PostgreSQL 17 and newer: a rescue must not be cut off by what the role allows the app's transactions.
    transaction_timeout: '60s',
  };
  // At once: a way of 100 ms to the server must not make a reconnect last as long as others wait for it.
  await Promise.all(
    Object.entries(optional).map(([name, value]) =>
      connection.query({ text: 'select set_config($1, $2, false)' }, [name, value]).catch(() => {}),
    ),
  );
}
