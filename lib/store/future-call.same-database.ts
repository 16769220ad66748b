import type { DataSource } from 'typeorm';
import { FutureCallSessionError } from '../contract/future-call.errors.js';
import { connectionOptions, placeOf } from './future-call.connection-options.js';
import { FutureCallConnection, type Statement } from './future-call.connection.js';

/** Which database it is, and of which server: a copy has the same name, and may have the same oid. */
const WHICH: Statement = {
  text: `select extract(epoch from pg_postmaster_start_time()) || ' ' || oid from pg_database where datname = current_database()`,
};

/** Which database a data source is known to lead to: it is asked anew only when a session finds another one. */
const known = new WeakMap<DataSource, string>();

/**
 * Proves that `sessionUrl` leads to the data source's database. Another one's calls would be run here, and those that
 * are scheduled here never.
 */
export class FutureCallSameDatabase {
  /** Whether the last proof has failed, or was cut off: a restart or a failover between the two questions looks the same. */
  isUnproven = false;

  constructor(
    private readonly dataSource: DataSource,
    private readonly url: string | undefined,
  ) {}

  /** Throws `FutureCallSessionError` when it is another one, and what connecting throws. */
  async prove(session: FutureCallConnection, signal: AbortSignal): Promise<void> {
    if (this.url === undefined) return;
    this.isUnproven = true;
    const found = await which(session);
    if (found !== known.get(this.dataSource)) {
      const expected = await this.whichOfDataSource(signal);
      if (found !== expected) throw this.another();
      known.set(this.dataSource, found);
    }
    this.isUnproven = false;
  }

  /** On its own connection, not one of the pool: whoever holds that may wait for us. */
  private async whichOfDataSource(signal: AbortSignal): Promise<string> {
    const applicationName = 'future-call which database';
    try {
      return await FutureCallConnection.openFor(this.dataSource, { applicationName, signal }, which);
    } catch (error) {
      if (!signal.aborted) throw error;
      // What ended it was us. A pooler that is full lets everybody in, and has no backend for them.
      throw new FutureCallSessionError(
        `The data source did not say in time which database it leads to, so nobody knows whether sessionUrl leads to the same one. ` +
          `Is it overloaded, or the pooler before it?`,
        { cause: error },
      );
    }
  }

  private another(): FutureCallSessionError {
    const [session, pool] = [this.url, undefined].map((url) =>
      placeOf(connectionOptions(this.dataSource, url)),
    );
    return new FutureCallSessionError(
      `sessionUrl leads to another database (${session}) than the data source (${pool}): calls would be scheduled there and run from here. ` +
        `Let sessionUrl lead to the data source's database, on the same server and without a pooler in between.`,
    );
  }
}

async function which(connection: FutureCallConnection): Promise<string> {
  const {
    rows: [row],
  } = await connection.query(WHICH);
  return row![0]!;
}
