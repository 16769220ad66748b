import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { monotonic, sleep } from '../common/timers.js';
import { FutureCallSessionError } from '../contract/future-call.errors.js';
import type { FutureCallConnection } from './future-call.connection.js';
import type { EngineStatements } from './future-call.engine-sql.js';

/** How long the instance's own lock may be refused, in milliseconds, before it becomes another one. */
const REFUSED_FOR = 5_000;

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

  /** Takes a new id and its lock, and registers. Throws `FutureCallSessionError` when somebody else has the lock. */
  async begin(connection: FutureCallConnection): Promise<void> {
    const {
      rows: [row],
    } = await connection.query(this.statements.newInstanceId);
    this.#id = Number(row![0]);
    this.#tableOid = Number(row![1]);
    await this.sign(connection);
    // Lock before registering: an instance that dies in between must look dead, not idle.
    if (!(await this.takeLock(connection))) {
      throw new FutureCallSessionError(
        `Somebody else holds the advisory lock (${this.lockClass}, ${this.id}), which belongs to the instance that starts here. ` +
          `Use other keys for your own advisory locks: the first one is the oid of the table future_call_instance.`,
      );
    }
    const registered = await connection.query(this.statements.register, [
      this.id,
      this.host,
      this.pid,
      this.pollInterval,
      JSON.stringify(this.handlers),
    ]);
    this.registeredAt = registered.rows[0]![0]!;
  }

  /** Takes the lock again, on a new connection. False: it was rescued meanwhile, or is another's, and began anew. */
  async resume(connection: FutureCallConnection, signal: AbortSignal): Promise<boolean> {
    await this.sign(connection);
    const giveUpAt = monotonic() + REFUSED_FOR;
    while (!(await this.takeLock(connection))) {
      // Neither ours nor a rescuer's: somebody else lives under this id.
      if (monotonic() > giveUpAt) return this.beginAnew(connection);
      // An old backend of ours still lives and does not know that its client is gone, or a rescuer is at work on us.
      await connection.query(this.statements.terminateOwnBackends, [this.tableOid, this.id, this.signedName]);
      await sleep(20, signal);
    }
    // In the next statement: in one with the lock, both would read one snapshot, older than the lock, and see a row
    // that a rescuer has deleted.
    const { id, host, pid, registeredAt } = this;
    const answer = await connection.query(this.statements.isRegistered, [id, host, pid, registeredAt]);
    if (answer.rows[0]![0] === 't') return true;
    // What still runs under the old id must not look as if it had an instance.
    await this.unlock(connection);
    return this.beginAnew(connection);
  }

  /** Takes its row away if nothing runs under it, and then lets go of the lock. */
  async end(connection: FutureCallConnection): Promise<void> {
    await connection.query(this.statements.removeInstance, [this.id]);
    await this.unlock(connection);
  }

  private async beginAnew(connection: FutureCallConnection): Promise<false> {
    await this.begin(connection);
    return false;
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
