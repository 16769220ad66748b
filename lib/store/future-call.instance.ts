import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { monotonic, sleep } from '../common/timers.js';
import { FutureCallSessionError } from '../contract/future-call.errors.js';
import type { FutureCallConnection, Query } from './future-call.connection.js';
import type { EngineStatements } from './future-call.engine-sql.js';

/** How long the instance's own lock may be refused, in milliseconds, before it becomes another one. */
const REFUSED_FOR = 5_000;

/** How many ids are tried that are taken, as after `truncate … restart identity` beside instances that run. */
const MOST_IDS = 100;

/**
 * Who runs here: an id that is never used again, a row that says where the process is and what it has handlers for,
 * and the liveness lock, which is held by whatever connection the session has at the time.
 */
export class FutureCallInstance {
  readonly host = hostname();
  readonly pid = process.pid;
  #id = 0;
  #tableOid = 0;
  /** When the database says that it registered: with its id, host and pid it is nobody else's row. */
  private registeredAt = '';
  /** Signs our connections. An id alone may come again: after a failover, or if somebody resets the sequence. */
  private readonly signature = randomBytes(4).toString('hex');

  /** `handlers`: names, and how many attempts each allows. */
  constructor(
    private readonly statementsNow: () => EngineStatements,
    private readonly pollInterval: number,
    private readonly handlers: Readonly<Record<string, number>>,
  ) {}

  private get statements(): EngineStatements {
    return this.statementsNow();
  }

  get id(): number {
    return this.#id;
  }

  /** The oid of the instances' table. */
  get tableOid(): number {
    return this.#tableOid;
  }

  /** The same as the signed number that an advisory lock's key is. */
  get lockClass(): number {
    return this.#tableOid | 0;
  }

  /** Takes a new id and its lock, and registers. Throws `FutureCallSessionError` when all ids that it tries are taken. */
  async begin(connection: FutureCallConnection): Promise<void> {
    let first = 0;
    for (let tries = 1; tries <= MOST_IDS; tries++) {
      const {
        rows: [row],
      } = await connection.query(this.statements.newInstanceId);
      this.#id = Number(row![0]);
      this.#tableOid = Number(row![1]);
      first ||= this.id;
      await this.sign(connection);
      // Lock before registering: an instance that dies in between must look dead, not idle.
      if (!(await this.takeLock(connection))) continue;
      if (await this.register(connection)) return;
      await this.unlock(connection);
    }
    throw new FutureCallSessionError(
      `No id is free for the instance that starts here: of ${first} to ${this.id} each has its advisory lock (${this.lockClass}, id) held, a row, or calls that run. ` +
        `If the sequence of future_call_instance was reset, set it above every id in use. If advisory locks of your own use these keys, ` +
        `use others: the first one is the oid of the table future_call_instance.`,
    );
  }

  /**
   * Takes the lock again, on a new connection. Answers with why that was not possible, if it was not: it has begun anew
   * then.
   */
  async resume(connection: FutureCallConnection, signal: AbortSignal): Promise<string | undefined> {
    await this.sign(connection);
    const giveUpAt = monotonic() + REFUSED_FOR;
    while (!(await this.takeLock(connection))) {
      // Neither ours nor a rescuer's: somebody else lives under this id.
      if (monotonic() > giveUpAt) {
        return this.beginAnew(connection, `somebody else holds the lock of instance ${this.id}`);
      }
      // An old backend of ours still lives and does not know that its client is gone, or a rescuer is at work on us.
      await connection.query(this.statements.terminateOwnBackends, [this.tableOid, this.id, this.signedName]);
      await sleep(20, signal);
    }
    // In the next statement: in one with the lock, both would read one snapshot, older than the lock, and see a row
    // that a rescuer has deleted.
    const { id, host, pid, registeredAt } = this;
    const answer = await connection.query(this.statements.isRegistered, [id, host, pid, registeredAt]);
    if (answer.rows[0]![0] === 't') return undefined;
    // What still runs under the old id must not look as if it had an instance.
    await this.unlock(connection);
    return this.beginAnew(
      connection,
      `the row of instance ${id} was removed while it had no session, as a rescue does`,
    );
  }

  /** Whether this connection holds the lock, by which nobody can have taken the instance for dead. */
  async holdsLock(query: Query): Promise<boolean> {
    const { rows } = await query(this.statements.holdsLock, [this.tableOid, this.id]);
    return rows[0]![0] === 't';
  }

  /** Writes its row again, which somebody has removed while the lock was held: it was no rescuer. */
  async registerAgain(query: Query): Promise<void> {
    await query(this.statements.registerAgain, [...this.row, this.registeredAt]);
  }

  /** Takes its row away if nothing runs under it, and then lets go of the lock. */
  async end(connection: FutureCallConnection): Promise<void> {
    await connection.query(this.statements.removeInstance, [this.id]);
    await this.unlock(connection);
  }

  private async beginAnew(connection: FutureCallConnection, why: string): Promise<string> {
    await this.begin(connection);
    return why;
  }

  /** False when something is left under this id. */
  private async register(connection: FutureCallConnection): Promise<boolean> {
    const {
      rows: [row],
    } = await connection.query(this.statements.register, this.row);
    if (row === undefined) return false;
    this.registeredAt = row[0]!;
    return true;
  }

  private get row(): unknown[] {
    return [this.id, this.host, this.pid, this.pollInterval, JSON.stringify(this.handlers)];
  }

  private async takeLock(connection: FutureCallConnection): Promise<boolean> {
    const {
      rows: [row],
    } = await connection.query(this.statements.lock, [this.lockClass, this.id]);
    return row![0] === 't';
  }

  private async unlock(connection: FutureCallConnection): Promise<void> {
    await connection.query(this.statements.unlock, [this.lockClass, this.id]);
  }

  /** Writes on the connection whose it is: for people, and for ourselves, when we lose it. */
  private async sign(connection: FutureCallConnection): Promise<void> {
    await connection.query({ text: `select set_config('application_name', $1, false)` }, [this.signedName]);
  }

  private get signedName(): string {
    return `future-call instance ${this.id} ${this.signature}`;
  }
}
