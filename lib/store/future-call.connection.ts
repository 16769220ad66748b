import pg from 'pg';
import type { DataSource } from 'typeorm';
import { clearTimeout, monotonic, setTimeout } from '../common/timers.js';
import { FutureCallSessionError } from '../contract/future-call.errors.js';

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

/** How long the server may take to let us in, in milliseconds. */
const CONNECT_WITHIN = 10_000;

function noAnswer(cause: unknown): FutureCallSessionError {
  return new FutureCallSessionError(
    `No connection to the database within ${CONNECT_WITHIN / 1_000} s. Is the server there, and does it answer?`,
    { cause },
  );
}

/**
 * One connection of our own, outside the app's pool, to where the data source's pool leads. Connecting, and a clean
 * or a hard end; what it is used for is decided above.
 */
export class FutureCallConnection {
  /** Resolves when the connection is gone, with the error that ended it. */
  readonly gone: Promise<Error | undefined>;
  private isGone!: (error: Error | undefined) => void;
  /** What the next statement waits for. pg has a queue of its own, and will lose it. */
  private last: Promise<void> = Promise.resolve();

  private constructor(private readonly client: pg.Client) {
    this.gone = new Promise((resolve) => (this.isGone = resolve));
    // pg emits 'error' twice for a connection that breaks, and is of no use after the first.
    client.on('error', this.isGone);
    client.on('end', () => this.isGone(undefined));
  }

  /** Connects with the data source's own options, or to `url`, unless the signal is aborted before. */
  static async open(
    dataSource: DataSource,
    {
      url,
      applicationName,
      signal,
    }: { url?: string | undefined; applicationName: string; signal?: AbortSignal },
  ): Promise<FutureCallConnection> {
    const client = new pg.Client({
      ...PIPELINE,
      ...(url === undefined ? poolOptions(dataSource) : { connectionString: url }),
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
    const giveUp = () => connection.destroy();
    const deadline = setTimeout(() => {
      isLate = true;
      giveUp();
    }, CONNECT_WITHIN);
    signal?.addEventListener('abort', giveUp);
    try {
      await client.connect();
      return connection;
    } catch (error) {
      connection.destroy();
      throw isLate ? noAnswer(error) : error;
    } finally {
      clearTimeout(deadline);
      signal?.removeEventListener('abort', giveUp);
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
    const send = () => this.send(statement, values);
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
        await this.send({ text: 'rollback' }).catch(() => this.destroy());
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

  private async send({ name, text }: Statement, values: unknown[] = []): Promise<Answer> {
    const sentAt = monotonic();
    try {
      const { rows, rowCount } = await this.client.query<Row>({
        ...(name === undefined ? {} : { name }),
        text,
        values,
        rowMode: 'array',
      });
      return { rows, count: rowCount ?? 0, sentAt };
    } catch (error) {
      // Whoever hears of it is to know already that it was no answer to the statement.
      if (error instanceof pg.DatabaseError && LAST_WORDS.test(error.code ?? '')) this.isGone(error);
      throw error;
    }
  }

  /** Ends it politely: what was sent is answered first. */
  async close(): Promise<void> {
    await this.client.end();
  }

  /** Ends it at once. A statement that is on its way may have taken effect. */
  destroy(): void {
    (this.client as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy();
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

function poolOptions(dataSource: DataSource): pg.ClientConfig {
  const { master } = dataSource.driver as unknown as { master?: { options: pg.PoolConfig } };
  if (master === undefined) {
    throw new FutureCallSessionError(
      `The data source of future calls has been destroyed, so there is no connection to the database. Close the app before its data source.`,
    );
  }
  const { options } = master;
  // pg-pool hides these two from enumeration, so that a logged pool does not show them.
  return { ...options, password: options.password, ssl: options.ssl };
}
