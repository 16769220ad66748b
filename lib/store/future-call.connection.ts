import pg from 'pg';
import type { DataSource } from 'typeorm';
import { clearTimeout, monotonic, setTimeout } from '../common/timers.js';
import { FutureCallSessionError } from '../contract/future-call.errors.js';
import { connectionOptions } from './future-call.connection-options.js';
import { statementNames } from './future-call.statement-names.js';

/** A statement: `name` makes it a named prepared one. */
export interface Statement {
  readonly name?: string;
  readonly text: string;
}

/** Every value as the server wrote it. */
export type Row = (string | null)[];

/** What a statement answered: its rows, and how many it returned or changed. */
export interface Answer {
  readonly rows: Row[];
  readonly count: number;
  /** When the statement was sent, on this process's monotonic clock. */
  readonly sentAt: number;
}

/** Runs one statement. */
export type Query = (statement: Statement, values?: unknown[]) => Promise<Answer>;

/**
 * Hands every value over as text. A parser that the app registered with pg's global `setTypeParser` may throw, and a
 * claim whose result cannot be read is a claim lost.
 */
const RAW_TYPES = { getTypeParser: () => (value: unknown) => value } as unknown as pg.CustomTypesConfig;

/**
 * Lets pg send a statement before the ones before it are answered: else the server does nothing while we read, and 2,000
 * calls are much to read. Since pg 8.23; an older one ignores it.
 */
const PIPELINE = { pipeline: true };

/** SQLSTATEs that end the connection: a shutdown, a termination, a session that was idle for too long. */
const LAST_WORDS = /^(?:57P0[1-5]|25P0[34]|08...)$/;

/** SQLSTATE of a prepared statement that is not there. */
const NOT_PREPARED = '26000';

/** How long the server may take to let us in, in milliseconds. */
const CONNECT_WITHIN = 10_000;

function noAnswer(cause: unknown): FutureCallSessionError {
  return new FutureCallSessionError(
    `No connection to the database within ${CONNECT_WITHIN / 1_000} s. Is the server there, and does it answer?`,
    { cause },
  );
}

/** Where to connect to: to `url`, or with the data source's own options; and as whom. The signal ends it. */
interface ConnectOptions {
  readonly url?: string | undefined;
  readonly applicationName: string;
  readonly signal?: AbortSignal;
}

/**
 * One connection of our own, outside the app's pool, to where the data source's pool leads. Connecting, and a clean
 * or a hard end; what it is used for is decided above.
 */
export class FutureCallConnection {
  /** Resolves when the connection is gone, with what ended it: our own reason, if it was us. */
  readonly gone: Promise<Error | undefined>;
  private isGone!: (error: Error | undefined) => void;
  /** Why we ended it ourselves. */
  private reason: string | undefined;
  /** When statements failed that are named, and may not have been prepared for it. */
  private readonly failedAt = new Map<string, number>();
  /** What the next statement waits for. pg has a queue of its own, and will lose it. */
  private last: Promise<void> = Promise.resolve();

  private constructor(private readonly client: pg.Client) {
    this.gone = new Promise((resolve) => (this.isGone = resolve));
    // pg emits 'error' twice for a connection that breaks, and is of no use after the first.
    client.on('error', (error) => this.isGone(this.trueReason(error)));
    client.on('end', () => this.isGone(this.trueReason(undefined)));
  }

  /** Connects with the data source's own options, or to `url`, unless the signal is aborted before. */
  static async open(
    dataSource: DataSource,
    { url, applicationName, signal }: ConnectOptions,
  ): Promise<FutureCallConnection> {
    const client = new pg.Client({
      ...PIPELINE,
      ...connectionOptions(dataSource, url),
      application_name: applicationName,
      types: RAW_TYPES,
      keepAlive: true,
      // The pool's own limits are meant for the app's statements. Ours are set once the server has answered.
      statement_timeout: undefined,
      lock_timeout: undefined,
      idle_in_transaction_session_timeout: undefined,
      // The limit below is ours.
      connectionTimeoutMillis: 0,
    });
    ignoreQueryTimeout(client);
    const connection = new FutureCallConnection(client);
    let isLate = false;
    const giveUp = () => connection.destroy('it is not needed any more');
    const deadline = setTimeout(() => {
      isLate = true;
      giveUp();
    }, CONNECT_WITHIN);
    signal?.addEventListener('abort', giveUp);
    try {
      await client.connect();
      return connection;
    } catch (error) {
      giveUp();
      throw isLate ? noAnswer(error) : error;
    } finally {
      clearTimeout(deadline);
      signal?.removeEventListener('abort', giveUp);
    }
  }

  /**
   * Connects for one piece of work. What it asks ends with the signal. Without a goodbye: a line that swallows everything
   * does not answer to that either.
   */
  static async openFor<T>(
    dataSource: DataSource,
    options: ConnectOptions & { signal: AbortSignal },
    work: (connection: FutureCallConnection) => Promise<T>,
  ): Promise<T> {
    const { signal } = options;
    const connection = await this.open(dataSource, options);
    const giveUp = () => connection.destroy('nobody waits any more');
    signal.addEventListener('abort', giveUp);
    if (signal.aborted) giveUp();
    try {
      return await work(connection);
    } finally {
      signal.removeEventListener('abort', giveUp);
      connection.destroy('it has answered');
    }
  }

  /** The backend's pid as the server announced it when we connected. A pooler announces another one. */
  get announcedPid(): number {
    return (this.client as unknown as { processID: number }).processID;
  }

  onNotification(listener: (payload: string) => void): void {
    this.client.on('notification', ({ payload }) => listener(payload ?? ''));
  }

  /** Whether statements are sent before those before them are answered. */
  private get isPipelined(): boolean {
    return (this.client as unknown as Partial<typeof PIPELINE>).pipeline === true;
  }

  /** Runs a statement after those that were given before. */
  query(statement: Statement, values?: unknown[]): Promise<Answer> {
    const send = () => this.send(statement, values, true);
    // The server takes them in the order in which they are sent. Only a transaction keeps others waiting.
    return this.isPipelined ? this.last.then(send) : this.inTurn(send);
  }

  /** Runs a transaction, with no other statement in between. Rolls back when `work` throws. */
  transaction<T>(work: (query: Query) => Promise<T>): Promise<T> {
    return this.inTurn(async () => {
      await this.send({ text: 'begin isolation level read committed read write' });
      try {
        const result = await work((statement, values) => this.send(statement, values));
        await this.send({ text: 'commit' });
        return result;
      } catch (error) {
        // A connection that cannot even roll back is of no use.
        await this.send({ text: 'rollback' }).catch(() =>
          this.destroy('a transaction cannot be rolled back'),
        );
        throw error;
      }
    });
  }

  private inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = this.last.then(work);
    // Without its answer, which would be kept as long as this.
    this.last = done.then(
      () => {},
      () => {},
    );
    return done;
  }

  /** @param mayRepeat whether it may be sent once more; in a transaction that has failed nothing may */
  private async send(statement: Statement, values: unknown[] = [], mayRepeat = false): Promise<Answer> {
    const { name, text } = statement;
    const sentAt = monotonic();
    const used = statementNames.present(name);
    try {
      const { rows, rowCount } = await this.client.query<Row>({
        ...(used === undefined ? {} : { name: used }),
        text,
        values,
        rowMode: 'array',
      });
      return { rows, count: rowCount ?? 0, sentAt };
    } catch (error) {
      // The fault of the name alone: it has done nothing.
      if (this.isFaultOfName(error, name, used, sentAt) && mayRepeat) {
        // A transaction may have begun meanwhile, unless this has its turn.
        if (this.isPipelined) await this.last;
        return await this.send(statement, values);
      }
      // An answer of the server stays what it is: whoever gets it knows that the statement has done nothing.
      throw error instanceof pg.DatabaseError ? error : this.trueReason(error as Error);
    }
  }

  /** Looks at what a statement was answered. Whoever hears of it is to know already if that was the end. */
  private isFaultOfName(
    error: unknown,
    name: string | undefined,
    used: string | undefined,
    sentAt: number,
  ): boolean {
    if (!(error instanceof pg.DatabaseError)) return false;
    if (LAST_WORDS.test(error.code ?? '')) this.isGone(error);
    if (used === undefined) return false;
    if (error.code === NOT_PREPARED) {
      // Sent before the one was answered that should have prepared it, and failed.
      if (sentAt <= (this.failedAt.get(used) ?? -Infinity)) return true;
      this.destroy(
        `its prepared statements are gone: somebody has run DISCARD ALL or DEALLOCATE on it, which may end its lock and LISTEN too`,
        error,
      );
      return false;
    }
    this.failedAt.set(used, monotonic());
    return statementNames.isOutdated(error, name, used);
  }

  /** Ends it politely: what was sent is answered first. */
  async close(): Promise<void> {
    await this.client.end();
  }

  /**
   * Ends it at once. A statement that is on its way may have taken effect.
   *
   * @param reason why, for whoever hears that it is gone: what pg says of it is that it was terminated unexpectedly
   * @param cause what has shown it, if anything has: it counts as gone from now on
   */
  destroy(reason: string, cause?: Error): void {
    this.reason ??= reason;
    if (cause !== undefined) this.isGone(this.trueReason(cause));
    (this.client as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy();
  }

  private trueReason<E extends Error | undefined>(error: E): E | FutureCallSessionError {
    return this.reason === undefined ? error : new FutureCallSessionError(this.reason, { cause: error });
  }
}

/**
 * pg would give up waiting for an answer that still comes, and a claim has then been made that nobody knows of. It
 * takes the limit from the options, the connection string and its own defaults, and nothing there says "none".
 */
function ignoreQueryTimeout(client: pg.Client): void {
  (
    client as unknown as { connectionParameters: { query_timeout: unknown } }
  ).connectionParameters.query_timeout = false;
}
