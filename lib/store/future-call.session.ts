import { Logger } from '@nestjs/common';
import type { DataSource } from 'typeorm';
import { clearTimeout, monotonic, setTimeout, sleep } from '../common/timers.js';
import { FutureCallSessionError } from '../contract/future-call.errors.js';
import type { ResolvedOptions } from '../module/future-call.options.js';
import { FutureCallClock, perTime } from './future-call.clock.js';
import { FutureCallConnection, type Answer, type Query, type Statement } from './future-call.connection.js';
import { FutureCallSchema } from './future-call.schema.js';
import { engineStatements, type EngineStatements } from './future-call.engine-sql.js';
import { FutureCallInstance } from './future-call.instance.js';
import { registerDespiteLocks } from './future-call.lock-wait.js';
import { refuseRowSecurity } from './future-call.row-security.js';
import { configureSession } from './future-call.session-settings.js';

/** What the session tells the engine. */
export interface SessionListener {
  /** The connection is gone; handlers that run go on. */
  lost(error: Error): void;
  /**
   * A connection is back. `sameInstance`: with the same liveness lock and the instance's row in place. Otherwise the
   * old instance was taken for dead, its calls have been given away, and this process has registered anew. If the
   * promise rejects, the session reconnects once more.
   */
  restored(sameInstance: boolean): Promise<void>;
  /** A notification's payload, as it came. */
  notified(payload: string): void;
}

/** Longest wait between two attempts to reconnect; also capped below `rescueAfter / 2`. */
const MAX_BACKOFF = 2_000;

/** How many reasons for not getting one are told. */
const MAX_REASONS = 5;

/** How long a new connection may take until it is in use, in milliseconds. Nobody looks at it before. */
const READY_WITHIN = 10_000;

/** How long the last statements may take, in milliseconds. */
const GOODBYE = 3_000;

/** A connection that lasted this long, in milliseconds, resets the wait. */
const STABLE_AFTER = 5_000;

/**
 * The instance's dedicated connection, and what hangs on it: the liveness lock, LISTEN, and every statement of the
 * engine. A claim made by the session that holds the lock cannot outlive the lock: a backend commits or aborts
 * before it lets a session lock go.
 */
export class FutureCallSession {
  private readonly logger = new Logger('FutureCall');
  private readonly stopped = new AbortController();
  private connection?: FutureCallConnection | undefined;
  private listener!: SessionListener;
  private statementsOf!: () => EngineStatements;
  private self!: FutureCallInstance;
  /** Whether the listener knows of this instance: it does not of one that an attempt to reconnect has just become. */
  private isKnown = false;
  private backend = 0;
  private answeredAt = -Infinity;
  private openedAt = 0;
  private failures = 0;
  private reconnecting: Promise<void> | undefined;

  constructor(
    private readonly dataSource: DataSource,
    private readonly options: ResolvedOptions,
    private readonly schema: FutureCallSchema,
    private readonly clock: FutureCallClock,
  ) {}

  get instance(): FutureCallInstance {
    return this.self;
  }

  /** The statements, with the tables' names in them. */
  get statements(): EngineStatements {
    return this.statementsOf();
  }

  get backendPid(): number {
    return this.backend;
  }

  get isOpen(): boolean {
    return this.connection !== undefined;
  }

  /**
   * Whether nobody can have taken this instance for dead: the server answered a statement that was sent less than
   * `rescueAfter` ago, on a connection that holds the lock. Only then may a claimed call start.
   */
  get isTrusted(): boolean {
    return this.isOpen && monotonic() - this.answeredAt < this.options.rescueAfter;
  }

  /**
   * Connects, takes the liveness lock and registers. Throws what connecting throws, or `FutureCallSessionError`. The signal
   * ends the connecting; registering is not cut off, so that nothing of it is left behind.
   */
  async start(
    handlers: Record<string, number>,
    listener: SessionListener,
    signal?: AbortSignal,
  ): Promise<void> {
    this.listener = listener;
    const tables = await this.schema.ready();
    this.statementsOf = perTime(this.clock, (time) => engineStatements(tables, time));
    this.self = new FutureCallInstance(this.statementsOf, this.options.pollInterval, handlers);
    this.use(
      await this.open(async (connection) => {
        // sessionUrl may have another role than the data source.
        await refuseRowSecurity(connection, tables);
        const begin = () => this.self.begin(connection);
        await registerDespiteLocks(this.dataSource, tables.instance, connection.announcedPid, begin);
      }, signal),
    );
  }

  /** Runs a statement of the engine. Rejects with `FutureCallSessionError` while there is no connection. */
  async query(statement: Statement, values?: unknown[]): Promise<Answer> {
    const answer = await this.requireConnection().query(statement, values);
    this.heard(answer);
    return answer;
  }

  /** Runs a transaction of several statements, with nothing in between. Rolls back when `work` throws. */
  async transaction<T>(work: (query: Query) => Promise<T>): Promise<T> {
    return this.requireConnection().transaction(work);
  }

  /**
   * Destroys the connection and takes the reconnect path. For when an answer is missing or wrong: what was sent may
   * have taken effect, and only the way over a new connection finds out.
   */
  abandon(reason: string): void {
    this.logger.debug(`Abandoning the session: ${reason}`);
    this.connection?.destroy();
  }

  /** Ends the instance: deregisters if nothing runs under it, lets go of the lock and disconnects. Never throws. */
  async stop(): Promise<void> {
    this.stopped.abort();
    let connection = this.connection;
    // Nobody looks any more, so nobody would notice a connection that swallows everything.
    const deadline = setTimeout(() => (connection ?? this.connection)?.destroy(), GOODBYE);
    await this.reconnecting;
    connection = this.connection;
    this.connection = undefined;
    try {
      if (connection === undefined) return;
      await this.self.end(connection);
      await connection.close();
    } catch (error) {
      connection?.destroy();
      this.logger.warn(
        `Instance ${this.self.id} could not say goodbye (${messageOf(error)}); another instance will clean up after it.`,
      );
    } finally {
      clearTimeout(deadline);
    }
  }

  /** For the pid of the backend that answered a statement. Any other than ours does not hold our lock. */
  requireBackend(pid: number): void {
    if (pid === this.backend) return;
    this.abandon('another backend answered');
    throw new FutureCallSessionError(
      `The session's backend changed from ${this.backend} to ${pid}: a pooler stands between this process and PostgreSQL. Set sessionUrl.`,
    );
  }

  private requireConnection(): FutureCallConnection {
    if (this.connection !== undefined) return this.connection;
    throw new FutureCallSessionError('There is no connection to the database right now.');
  }

  /** By the time of sending: a process that was frozen meanwhile reads old answers. */
  private heard({ sentAt }: Answer): void {
    if (sentAt > this.answeredAt) this.answeredAt = sentAt;
  }

  /** A connection that is ready for use: what `prepare` does is part of opening it. */
  private async open(
    prepare: (connection: FutureCallConnection) => Promise<void>,
    connecting?: AbortSignal,
  ): Promise<FutureCallConnection> {
    const { signal } = this.stopped;
    const connection = await FutureCallConnection.open(this.dataSource, {
      url: this.options.sessionUrl,
      applicationName: 'future-call instance',
      signal: connecting === undefined ? signal : AbortSignal.any([signal, connecting]),
    });
    const giveUp = () => connection.destroy();
    // No AbortSignal.timeout(): behind an any() it may be collected before it fires.
    const deadline = setTimeout(giveUp, READY_WITHIN);
    signal.addEventListener('abort', giveUp);
    try {
      await this.refusePooler(connection);
      await configureSession(connection, this.options.rescueAfter);
      await prepare(connection);
      this.heard(await connection.query(this.statements.listen(this.self.tableOid)));
      return connection;
    } catch (error) {
      connection.destroy();
      throw error;
    } finally {
      clearTimeout(deadline);
      signal.removeEventListener('abort', giveUp);
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

  private use(connection: FutureCallConnection): void {
    this.openedAt = monotonic();
    connection.onNotification((payload) => this.listener.notified(payload));
    this.connection = connection;
    this.isKnown = true;
    this.backend = connection.announcedPid;
    void connection.gone.then((error) => {
      // Our own goodbye comes with the reference already gone.
      if (this.connection !== connection) return;
      this.connection = undefined;
      // pg leaves the socket open after an error that came without a statement.
      connection.destroy();
      this.reconnecting = this.reconnect();
      this.listener.lost(error ?? new Error('the server closed the connection'));
    });
  }

  private async reconnect(): Promise<void> {
    const { signal } = this.stopped;
    const longest = Math.min(MAX_BACKOFF, this.options.rescueAfter / 2);
    // A connection that broke as soon as it was made is one more failure, not a fresh start.
    if (monotonic() - this.openedAt > STABLE_AFTER) this.failures = 0;
    const told = new Set<string>();
    for (;;) {
      // Full jitter: after a restart of the server all instances come back, and not at one instant.
      await sleep(Math.random() * Math.min(longest, 50 * 2 ** this.failures++), signal);
      if (signal.aborted) return;
      try {
        return await this.restore();
      } catch (error) {
        // Once for each reason: a server that is away for an hour is not worth a line a second. Two reasons may take
        // turns, and one may have a pid in it.
        const reason = messageOf(error);
        if (told.has(reason) || told.size === MAX_REASONS) continue;
        this.logger.warn(`Reconnecting fails, and is tried until it works: ${reason}`);
        told.add(reason);
      }
    }
  }

  /** Throws when no connection could be made. One that was made and breaks is noticed as any other. */
  private async restore(): Promise<void> {
    const connection = await this.open(async (opened) => {
      // It stays so: an attempt may become an instance, and break before it was used.
      if (!(await this.self.resume(opened, this.stopped.signal))) this.isKnown = false;
    });
    const sameInstance = this.isKnown;
    this.use(connection);
    try {
      await this.listener.restored(sameInstance);
    } catch (error) {
      this.logger.debug(`Coming back failed: ${messageOf(error)}`);
      connection.destroy();
    }
  }
}

function messageOf(error: unknown): string {
  // Node has no message for a host of which no address answers.
  if (error instanceof AggregateError && error.message === '') return messageOf(error.errors[0]);
  return error instanceof Error ? error.message : String(error);
}
