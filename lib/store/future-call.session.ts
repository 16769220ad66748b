import { Logger } from '@nestjs/common';
import type { DataSource } from 'typeorm';
import { errorText } from '../common/describe-error.js';
import { clearTimeout, monotonic, setTimeout, sleep } from '../common/timers.js';
import { ToldReasons } from '../common/told-reasons.js';
import { FutureCallSessionError } from '../contract/future-call.errors.js';
import type { ResolvedOptions } from '../module/future-call.options.js';
import { FutureCallClock, perTime } from './future-call.clock.js';
import type { Answer, FutureCallConnection, Query, Statement } from './future-call.connection.js';
import { FutureCallSchema } from './future-call.schema.js';
import { engineStatements, type EngineStatements } from './future-call.engine-sql.js';
import { FutureCallInstance } from './future-call.instance.js';
import { lookAtSession, type SessionState } from './future-call.second-look.js';
import { registerDespiteLocks } from './future-call.lock-wait.js';
import { refuseRowSecurity } from './future-call.row-security.js';
import { FutureCallSessionOpener } from './future-call.session-opener.js';

/** What the session tells the engine. */
export interface SessionListener {
  /** The connection is gone; handlers that run go on. */
  lost(error: Error): void;
  /**
   * A connection is back, with the same liveness lock and the instance's row in place. Otherwise this process has
   * registered anew, and `whyAnother` says what was found: the calls of the old instance may have been given away. If the
   * promise rejects, the session reconnects once more.
   */
  restored(whyAnother: string | undefined): Promise<void>;
  /** A notification's payload, as it came. */
  notified(payload: string): void;
}

/** Longest wait between two attempts to reconnect; also capped below `rescueAfter / 2`. */
const MAX_BACKOFF = 2_000;

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
  private readonly opener: FutureCallSessionOpener;
  /** Why this is another instance than the one the listener knows of, if it is. */
  private whyAnother: string | undefined;
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
  ) {
    this.opener = new FutureCallSessionOpener(dataSource, options, this.stopped.signal);
  }

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
    const begin = this.becoming(async (connection) => {
      // Another role than the data source's, perhaps, which has been asked about.
      if (this.options.sessionUrl !== undefined) await refuseRowSecurity(connection, tables);
      const register = () => this.self.begin(connection);
      await registerDespiteLocks(this.dataSource, tables.instance, connection.announcedPid, register);
    });
    this.use(await this.opener.openFirst(begin, signal));
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

  /** Whether the session holds the liveness lock, by its own word. Rejects with `FutureCallSessionError` as `query` does. */
  async holdsLock(): Promise<boolean> {
    return this.self.holdsLock((statement, values) => this.query(statement, values));
  }

  /** Writes the instance's row again. Only while the lock is held: nobody can have rescued it then. */
  async registerAgain(): Promise<void> {
    await this.self.registerAgain((statement, values) => this.query(statement, values));
  }

  /**
   * What has become of this session, as another connection with the same options sees it. Throws what connecting throws;
   * ended by the signal.
   */
  async lookFromOutside(signal: AbortSignal): Promise<SessionState> {
    const question = { tableOid: this.self.tableOid, instanceId: this.self.id, backend: this.backend };
    return this.opener.aside('future-call second look', signal, (connection) =>
      lookAtSession(connection, question),
    );
  }

  /**
   * Destroys the connection and takes the reconnect path. For when an answer is missing or wrong: what was sent may
   * have taken effect, and only the way over a new connection finds out.
   *
   * @param reason what is known, for the log and the event
   * @param cause what has shown it, if anything has
   */
  abandon(reason: string, cause?: Error): void {
    this.connection?.destroy(reason, cause);
  }

  /** Ends the instance: deregisters if nothing runs under it, lets go of the lock and disconnects. Never throws. */
  async stop(): Promise<void> {
    this.stopped.abort();
    let connection = this.connection;
    // Nobody looks any more, so nobody would notice a connection that swallows everything.
    const deadline = setTimeout(
      () => (connection ?? this.connection)?.destroy(`no answer within ${GOODBYE} ms`),
      GOODBYE,
    );
    await this.reconnecting;
    connection = this.connection;
    this.connection = undefined;
    try {
      if (connection === undefined) return;
      await this.self.end(connection);
      await connection.close();
    } catch (error) {
      connection?.destroy('it could not say goodbye');
      this.logger.warn(
        `Instance ${this.self.id} could not say goodbye (${errorText(error)}); another instance will clean up after it.`,
      );
    } finally {
      clearTimeout(deadline);
    }
  }

  /** For the pid of the backend that answered a statement. Any other than ours does not hold our lock. */
  requireBackend(pid: number): void {
    if (pid === this.backend) return;
    const reason = `another backend answered (${pid} instead of ${this.backend}): a pooler stands between this process and PostgreSQL. Set sessionUrl`;
    const error = new FutureCallSessionError(reason);
    this.abandon(reason, error);
    throw error;
  }

  private requireConnection(): FutureCallConnection {
    if (this.connection !== undefined) return this.connection;
    throw new FutureCallSessionError('There is no connection to the database right now.');
  }

  /** By the time of sending: a process that was frozen meanwhile reads old answers. */
  private heard({ sentAt }: Answer): void {
    if (sentAt > this.answeredAt) this.answeredAt = sentAt;
  }

  /** What makes a connection the session's. */
  private becoming(
    prepare: (connection: FutureCallConnection) => Promise<void>,
  ): (connection: FutureCallConnection) => Promise<void> {
    return async (connection) => {
      await prepare(connection);
      this.heard(await connection.query(this.statements.listen(this.self.tableOid)));
    };
  }

  private use(connection: FutureCallConnection): void {
    this.openedAt = monotonic();
    connection.onNotification((payload) => this.listener.notified(payload));
    this.connection = connection;
    this.whyAnother = undefined;
    this.backend = connection.announcedPid;
    void connection.gone.then((error) => {
      // Our own goodbye comes with the reference already gone.
      if (this.connection !== connection) return;
      this.connection = undefined;
      // pg leaves the socket open after an error that came without a statement.
      connection.destroy('it has broken');
      this.reconnecting = this.reconnect();
      this.listener.lost(error ?? new Error('the server closed the connection'));
    });
  }

  private async reconnect(): Promise<void> {
    const { signal } = this.stopped;
    const longest = Math.min(MAX_BACKOFF, this.options.rescueAfter / 2);
    // A connection that broke as soon as it was made is one more failure, not a fresh start.
    if (monotonic() - this.openedAt > STABLE_AFTER) this.failures = 0;
    const told = new ToldReasons();
    for (;;) {
      // Full jitter: after a restart of the server all instances come back, and not at one instant.
      await sleep(Math.random() * Math.min(longest, 50 * 2 ** this.failures++), signal);
      if (signal.aborted) return;
      try {
        return await this.restore();
      } catch (error) {
        // Once for each reason: a server that is away for an hour is not worth a line a second.
        const reason = errorText(error);
        if (told.isNew(reason))
          this.logger.warn(`Reconnecting fails, and is tried until it works: ${reason}`);
      }
    }
  }

  /** Throws when no connection could be made. One that was made and breaks is noticed as any other. */
  private async restore(): Promise<void> {
    const resume = this.becoming(async (opened) => {
      // It stays another one: an attempt may become an instance, and break before it was used.
      this.whyAnother = (await this.self.resume(opened, this.stopped.signal)) ?? this.whyAnother;
    });
    const connection = await this.opener.open(resume);
    const { whyAnother } = this;
    this.use(connection);
    try {
      await this.listener.restored(whyAnother);
    } catch (error) {
      connection.destroy(`coming back failed: ${errorText(error)}`, error as Error);
    }
  }
}
