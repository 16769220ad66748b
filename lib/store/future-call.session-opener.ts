import type { DataSource } from 'typeorm';
import { clearTimeout, setTimeout, sleep } from '../common/timers.js';
import { FutureCallSessionError } from '../contract/future-call.errors.js';
import type { ResolvedOptions } from '../module/future-call.options.js';
import { FutureCallConnection } from './future-call.connection.js';
import { FutureCallSameDatabase } from './future-call.same-database.js';
import { configureSession } from './future-call.session-settings.js';

/** What is done on a new connection before it is used. */
type Prepare = (connection: FutureCallConnection) => Promise<void>;

/** How long a new connection may take until it is in use, in milliseconds. Nobody looks at it before. */
const READY_WITHIN = 10_000;

/** How often the start tries to prove that it is at the right database, and how long it waits in between, in milliseconds. */
const PROOFS = 4;
const BETWEEN_PROOFS = 700;

/** Opens the connections of the session, and lets none pass that is not what it must be. */
export class FutureCallSessionOpener {
  private readonly sameDatabase: FutureCallSameDatabase;

  /** @param stopped when none is needed any more */
  constructor(
    private readonly dataSource: DataSource,
    private readonly options: ResolvedOptions,
    private readonly stopped: AbortSignal,
  ) {
    this.sameDatabase = new FutureCallSameDatabase(dataSource, options.sessionUrl);
  }

  /** Uses another connection for a moment, with the session's options. */
  aside<T>(
    applicationName: string,
    signal: AbortSignal,
    use: (connection: FutureCallConnection) => Promise<T>,
  ): Promise<T> {
    const { sessionUrl: url } = this.options;
    return FutureCallConnection.openFor(this.dataSource, { url, applicationName, signal }, use);
  }

  /** The first connection. A restart of the server may come between two questions, and make one database look like two. */
  async openFirst(prepare: Prepare, signal: AbortSignal | undefined): Promise<FutureCallConnection> {
    for (let proofs = 1; ; proofs++) {
      try {
        return await this.open(prepare, signal);
      } catch (error) {
        if (!this.sameDatabase.isUnproven || proofs === PROOFS || signal?.aborted === true) throw error;
        await sleep(BETWEEN_PROOFS, signal ?? this.stopped);
      }
    }
  }

  /** A connection that is ready for use: what `prepare` does is part of opening it. */
  async open(prepare: Prepare, connecting?: AbortSignal): Promise<FutureCallConnection> {
    const signal = this.stopped;
    const connection = await FutureCallConnection.open(this.dataSource, {
      url: this.options.sessionUrl,
      applicationName: 'future-call instance',
      signal: connecting === undefined ? signal : AbortSignal.any([signal, connecting]),
    });
    const over = new AbortController();
    const giveUp = (reason: string) => {
      over.abort();
      connection.destroy(reason);
    };
    const stop = () => giveUp('this instance stops');
    // No AbortSignal.timeout(): behind an any() it may be collected before it fires.
    const deadline = setTimeout(
      () => giveUp(`the new connection was not in use within ${READY_WITHIN} ms: an answer is missing`),
      READY_WITHIN,
    );
    signal.addEventListener('abort', stop);
    try {
      await this.refusePooler(connection);
      await this.sameDatabase.prove(connection, over.signal);
      await configureSession(connection, this.options.rescueAfter);
      await prepare(connection);
      return connection;
    } catch (error) {
      connection.destroy('it cannot be used');
      throw error;
    } finally {
      clearTimeout(deadline);
      signal.removeEventListener('abort', stop);
    }
  }

  /**
   * A pooler in transaction mode hands our statements to any backend: locks would be lost, and two instances would
   * share one. Two statements on the same backend prove nothing, an idle pooler passes. The pid that was announced
   * when we connected is the pooler's invention.
   */
  private async refusePooler(connection: FutureCallConnection): Promise<void> {
    const {
      rows: [row],
    } = await connection.query({ text: 'select pg_backend_pid()' });
    if (Number(row![0]) === connection.announcedPid) return;
    throw new FutureCallSessionError(
      `The connection for future calls leads through a pooler such as PgBouncer (backend ${row![0]} answered, ${connection.announcedPid} was announced), ` +
        `and advisory locks do not survive one that pools transactions; one that pools sessions looks the same from here. ` +
        `Set sessionUrl to a connection string that leads to PostgreSQL directly, and preparedStatements: false unless the pooler supports them: ` +
        `FutureCallModule.forRoot({ sessionUrl: 'postgres://…', preparedStatements: false }). Everything else may go on through the pooler.`,
    );
  }
}
