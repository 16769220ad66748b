import type { ResolvedOptions } from '../module/future-call.options.js';
import type { Query } from './future-call.connection.js';
import { FutureCallSession } from './future-call.session.js';

/** An instance as a look sees it. `host` is null when it has running calls but no row. */
export interface SeenInstance {
  readonly id: number;
  readonly host: string | null;
  readonly pid: number | null;
  readonly holdsLock: boolean;
}

/** A call that was taken from an instance. */
export interface InterruptedCall {
  readonly id: string;
  readonly name: string;
  readonly identifier: string | null;
  readonly attempt: number;
  /** Pending again: its handler allows further attempts. */
  readonly willRetry: boolean;
}

/** What became of the calls of a dead instance. */
export interface Rescue {
  readonly calls: InterruptedCall[];
  /** Whether nothing is left of it: no row, and no call that somebody has locked. */
  readonly isComplete: boolean;
}

/**
 * How long a call waits after an interruption, in milliseconds: twice as long each time, from `delay` to `max`, the last
 * half of it at random.
 */
export interface InterruptionBackoff {
  readonly delay: number;
  readonly max: number;
}

/** What the engine asks of the database about instances, living and dead, on its own instance's session. */
export class FutureCallInstanceStore {
  constructor(
    private readonly options: ResolvedOptions,
    private readonly session: FutureCallSession,
  ) {}

  /** Who is registered, and whose liveness lock is held. `everyone`: also who only has running calls. */
  async look(everyone: boolean): Promise<SeenInstance[]> {
    const { instance, statements } = this.session;
    const { rows } = await this.session.query(statements.look, [instance.tableOid, everyone]);
    return rows.map(([id, host, pid, holdsLock, backendPid]) => {
      this.session.requireBackend(Number(backendPid));
      return {
        id: Number(id),
        host: host!,
        pid: pid == null ? null : Number(pid),
        holdsLock: holdsLock === 't',
      };
    });
  }

  /**
   * Gives the calls of a dead instance their outcome and removes it. What somebody has locked is left, for the next time.
   * Undefined when it is not dead after all, or when another instance is at it.
   */
  async rescue(instanceId: number, backoff: InterruptionBackoff): Promise<Rescue | undefined> {
    const { statements, instance } = this.session;
    return this.session.transaction(async (query) => {
      const lock = await query(statements.lockForRescue, [instance.lockClass, instanceId]);
      if (lock.rows[0]![0] !== 't') return undefined;
      const calls = await this.interrupt(query, instanceId, 'The instance that ran this call died.', {
        ...backoff,
        spendsAttempt: true,
      });
      await query(statements.removeInstance, [instanceId]);
      const left = await query(statements.isLeft, [instanceId]);
      return { calls, isComplete: left.rows[0]![0] === 'f' };
    });
  }

  /**
   * Ends what still runs under this instance: the last thing a drain does to its calls. A handler that allows several
   * attempts has spent none by it: that the app was stopped is not its failure.
   */
  async interruptOwn(reason: string, backoff: InterruptionBackoff): Promise<InterruptedCall[]> {
    const { id } = this.session.instance;
    return this.interrupt(this.session.query.bind(this.session), id, reason, {
      ...backoff,
      spendsAttempt: false,
    });
  }

  private async interrupt(
    query: Query,
    instanceId: number,
    reason: string,
    { delay, max, spendsAttempt }: InterruptionBackoff & { spendsAttempt: boolean },
  ): Promise<InterruptedCall[]> {
    const keep = this.options.retention.interrupted > 0;
    const values = [instanceId, reason, delay, max, keep, spendsAttempt];
    const { rows } = await query(this.session.statements.interrupt, values);
    return rows
      .filter(([id]) => id !== null)
      .map(([id, name, identifier, attempt, again]) => ({
        id: id!,
        name: name!,
        identifier: identifier!,
        attempt: Number(attempt),
        willRetry: again === 'true',
      }));
  }

  /** Some of the names that calls are pending for, and that no registered instance has a handler for. */
  async namesWithoutHandler(): Promise<string[]> {
    const { rows } = await this.session.query(this.session.statements.namesWithoutHandler);
    return rows.map(([name]) => name!);
  }
}
