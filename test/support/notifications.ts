import pg from 'pg';
import type { TestDatabase } from './database.js';

/** The payloads of what is notified while `work` runs, to whoever listens as an instance does. */
export async function notificationsOf(
  database: TestDatabase,
  work: () => Promise<unknown>,
): Promise<string[]> {
  const client = new pg.Client({ connectionString: database.url });
  await client.connect();
  const payloads: string[] = [];
  const ended = new Promise<void>((resolve) =>
    client.on('notification', ({ payload }) => (payload === 'end' ? resolve() : payloads.push(payload!))),
  );
  try {
    const { rows } = await client.query<{ channel: string }>(
      `select 'future_call_' || 'future_call_instance'::regclass::oid as channel`,
    );
    await client.query(`listen "${rows[0]!.channel}"`);
    await work();
    await database.query('select pg_notify($1, $2)', [rows[0]!.channel, 'end']);
    await ended;
  } finally {
    await client.end();
  }
  return payloads;
}
