import type { DataSource } from 'typeorm';
import { clearTimeout, setTimeout } from '../common/timers.js';
import { withDeadline } from '../common/waiting.js';
import { FutureCallSessionError } from '../contract/future-call.errors.js';
import type { RunStatement } from '../tables/migrations/future-call.schema-version.js';
import { FutureCallConnection, type Query } from './future-call.connection.js';

/** What it is called in `pg_stat_activity`. */
export const SCHEMA_CONNECTION = 'future-call schema';

/** How long the goodbye may take, in milliseconds. */
const GOODBYE = 1_000;

/**
 * Uses the short connection that looks at the tables at boot. Not one of the app's pool: with a pool of one, an app that
 * schedules inside a transaction while it boots would wait for its own connection.
 */
export async function onSchemaConnection<T>(
  dataSource: DataSource,
  use: (connection: FutureCallConnection) => Promise<T>,
): Promise<T> {
  const connection = await FutureCallConnection.open(dataSource, { applicationName: SCHEMA_CONNECTION });
  try {
    return await use(connection);
  } finally {
    // One that swallows everything does not answer to a goodbye either.
    await withDeadline(GOODBYE, () => connection.close()).catch(() => {});
    connection.destroy('it is not needed any more');
  }
}

/** Waits for answers, but not for ever: a connection that swallows everything is never seen to be one by TCP. */
export async function answeredWithin<T>(
  milliseconds: number,
  connection: FutureCallConnection,
  work: () => Promise<T>,
): Promise<T> {
  let isLate = false;
  const deadline = setTimeout(() => {
    isLate = true;
    connection.destroy(`no answer within ${milliseconds} ms`);
  }, milliseconds);
  try {
    return await work();
  } catch (error) {
    if (!isLate) throw error;
    throw new FutureCallSessionError(
      `The database let us in, and did not answer within ${milliseconds / 1_000} s when it was asked for the tables of future calls. ` +
        `Is it overloaded, or what stands between?`,
      { cause: error },
    );
  } finally {
    clearTimeout(deadline);
  }
}

/** What the migrations take, on a connection of ours. */
export function runnerOf(query: Query): RunStatement {
  return async (text, values) => {
    const { rows } = await query({ text }, values);
    // Several statements in one text answer with none.
    return (rows as typeof rows | undefined)?.[0]?.[0];
  };
}
