import { Injectable } from '@nestjs/common';
import { parseTimestamp } from '../common/timestamp.js';
import { FutureCallSessionError } from '../future-call.errors.js';
import type { Row } from './future-call.connection.js';
import { FutureCallSession } from './future-call.session.js';

/** Where a handler's calls have to be looked for: everything before is known to be claimed. */
export interface Watermark {
  /** A `timestamptz` as the server writes it, in full precision. */
  readonly dueAt: string;
  readonly id: string;
}

/** A call that this process has claimed. `id`, `instanceId` and `claim` are its claim token. */
export interface ClaimedCall extends Watermark {
  readonly instanceId: number;
  readonly claim: number;
  readonly name: string;
  readonly identifier: string | null;
  /** JSON. As `dueAt`, it is parsed when the call starts: one that is released was never worth it. */
  readonly data: string | null;
  readonly attempt: number;
}

/** What one handler may claim. */
export interface ClaimRequest {
  readonly name: string;
  readonly free: number;
  readonly since: Watermark;
}

export interface ClaimResult {
  /** Oldest due first for each handler. */
  readonly calls: ClaimedCall[];
  /** When the claim was sent, on this process's monotonic clock. */
  readonly sentAt: number;
  /** Milliseconds since 1970, by the database's clock, when the claim decided what is due. */
  readonly now: number;
  /** When the next call is due that was not due yet, in the same terms. Infinity when there is none. */
  readonly nextDueAt: number;
}

/** How an attempt ended: `error` is the JSON of an error record without its time, or null when it completed. */
export interface AttemptEnd {
  readonly call: ClaimedCall;
  readonly error: string | null;
}

/** An instance as a look sees it. `host` is null when it has running calls but no row. */
export interface SeenInstance {
  readonly id: number;
  readonly host: string | null;
  readonly pid: number | null;
  readonly holdsLock: boolean;
}

/** A call that was taken from a dead instance. */
export interface InterruptedCall {
  readonly id: string;
  readonly name: string;
  readonly attempt: number;
  readonly identifier: string | null;
}

const LAST_CLAIM = 2 ** 31 - 1;

/** What the engine asks of the database, all of it on the instance's session. */
@Injectable()
export class FutureCallEngineStore {
  private claims = 0;

  constructor(private readonly session: FutureCallSession) {}

  /**
   * Claims at most `limit` due calls. A claim without a clean result may have been committed: the session is
   * abandoned, and what was claimed is found and released over the next one.
   */
  async claim(requests: readonly ClaimRequest[], limit: number): Promise<ClaimResult> {
    const { id: instanceId } = this.session.instance;
    const claim = (this.claims = this.claims === LAST_CLAIM ? 1 : this.claims + 1);
    const { backendPid } = this.session;
    let rows: Row[];
    let sentAt: number;
    try {
      ({ rows, sentAt } = await this.session.query(this.session.statements.claim, [
        requests.map(({ name }) => name),
        requests.map(({ free }) => free),
        requests.map(({ since }) => since.dueAt),
        requests.map(({ since }) => since.id),
        limit,
        instanceId,
        claim,
        backendPid,
      ]));
    } catch (error) {
      this.session.abandon('a claim failed, and may have been committed');
      throw error;
    }
    const [, pid, now, , nextDueAt] = rows.pop()!;
    this.requireBackend(Number(pid), backendPid);
    const calls = rows.map(([id, name, identifier, data, dueAt, attempt]): ClaimedCall => ({
      id: id!,
      instanceId,
      claim,
      name: name!,
      identifier: identifier!,
      data: data!,
      dueAt: dueAt!,
      attempt: Number(attempt),
    }));
    return {
      calls: inOrder(calls),
      sentAt,
      now: Number(now),
      nextDueAt: nextDueAt == null ? Infinity : parseTimestamp(nextDueAt),
    };
  }

  /** Records how attempts ended. Rejects when it cannot be known whether it was recorded: try again. */
  async end(ends: readonly AttemptEnd[]): Promise<void> {
    const completed = ends.filter(({ error }) => error === null);
    const failed = ends.filter(({ error }) => error !== null);
    const { statements, instance } = this.session;
    // Both are sent at once; the session answers in order.
    const answers = await Promise.all([
      completed.length > 0 && this.session.query(statements.complete, tokens(completed)),
      failed.length > 0 &&
        this.session.query(statements.fail, [
          ...tokens(failed),
          failed.map(({ error }) => error),
          instance.host,
          instance.pid,
        ]),
    ]);
    const recorded = answers.reduce((sum, answer) => sum + (answer === false ? 0 : answer.count), 0);
    if (recorded === ends.length) return;
    await this.session.query(statements.correct, [...tokens(ends), ends.map(({ error }) => error)]);
  }

  /** Gives claimed calls back that were never started, with the attempt that the claim counted. */
  async release(calls: readonly ClaimedCall[]): Promise<void> {
    await this.session.query(this.session.statements.release, tokens(calls.map((call) => ({ call }))));
  }

  /** Gives back what is claimed by this instance but is not among `known`. */
  async releaseUnknown(known: readonly ClaimedCall[]): Promise<void> {
    await this.session.query(this.session.statements.releaseUnknown, [
      this.session.instance.id,
      ...tokens(known.map((call) => ({ call }))),
    ]);
  }

  /** Who is registered, and whose liveness lock is held. `everyone`: also who only has running calls. */
  async look(everyone: boolean): Promise<SeenInstance[]> {
    const { backendPid, tableOid } = this.session;
    const { rows } = await this.session.query(this.session.statements.look, [tableOid, everyone, backendPid]);
    return rows.map(([id, host, pid, holdsLock, sameBackend]) => {
      if (sameBackend !== 't') this.requireBackend(NaN, backendPid);
      return {
        id: Number(id),
        host: host!,
        pid: pid == null ? null : Number(pid),
        holdsLock: holdsLock === 't',
      };
    });
  }

  /**
   * Gives the calls of a dead instance their outcome and removes it. Undefined when it is not dead after all, or when
   * another instance is at it.
   */
  async rescue(instanceId: number): Promise<InterruptedCall[] | undefined> {
    const { statements, lockClass } = this.session;
    return this.session.transaction(async (query) => {
      const lock = await query(statements.lockForRescue, [lockClass, instanceId]);
      if (lock.rows[0]![0] !== 't') return undefined;
      const { rows } = await query(statements.interrupt, [
        instanceId,
        'The instance that ran this call died.',
      ]);
      await query(statements.removeInstance, [instanceId]);
      return rows.map(toInterrupted);
    });
  }

  /** Ends what still runs under this instance as interrupted: the last thing a drain does to its calls. */
  async interruptOwn(reason: string): Promise<InterruptedCall[]> {
    const { statements, instance } = this.session;
    const { rows } = await this.session.query(statements.interrupt, [instance.id, reason]);
    return rows.map(toInterrupted);
  }

  /** Tells the other instances that calls are due. */
  async notify(name: string, dueAt: number): Promise<void> {
    await this.session.query(this.session.statements.notify, [name, dueAt]);
  }

  private requireBackend(pid: number, expected: number): void {
    if (pid === expected) return;
    this.session.abandon('another backend answered');
    throw new FutureCallSessionError(
      `The session's backend changed from ${expected} to ${pid}: a pooler stands between this process and PostgreSQL. Set sessionUrl.`,
    );
  }
}

/** Claim tokens as three parallel arrays. */
function tokens(ends: readonly { call: ClaimedCall }[]): [string[], number[], number[]] {
  return [
    ends.map(({ call }) => call.id),
    ends.map(({ call }) => call.instanceId),
    ends.map(({ call }) => call.claim),
  ];
}

/**
 * Rows arrive in the order of their ids, which is nearly always the order of their due times too. The server's text
 * sorts as the times do. Ids are compared as numbers: an identity column needs centuries to leave what a double holds.
 */
function inOrder(calls: ClaimedCall[]): ClaimedCall[] {
  const compare = (a: ClaimedCall, b: ClaimedCall) =>
    a.dueAt < b.dueAt ? -1 : a.dueAt > b.dueAt ? 1 : Number(a.id) - Number(b.id);
  const isSorted = calls.every((call, i) => i === 0 || compare(calls[i - 1]!, call) <= 0);
  return isSorted ? calls : calls.toSorted(compare);
}

function toInterrupted([id, name, attempt, identifier]: Row): InterruptedCall {
  return { id: id!, name: name!, attempt: Number(attempt), identifier: identifier! };
}
