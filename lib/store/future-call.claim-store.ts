import pg from 'pg';
import { parseTimestamp } from '../common/timestamp.js';
import { monotonic } from '../common/timers.js';
import type { ResolvedOptions } from '../module/future-call.options.js';
import type { Row } from './future-call.connection.js';
import { FutureCallSession } from './future-call.session.js';

/** Where a handler's calls have to be looked for: everything before is known to be claimed. */
export interface Watermark {
  /** A `timestamptz` as the server writes it, in full precision. */
  readonly dueAt: string;
  readonly id: string;
}

/** What a claimed call is known by: no claim is made twice. */
export interface ClaimToken {
  readonly id: string;
  readonly instanceId: number;
  readonly claim: number;
}

/** A call that this process has claimed. */
export interface ClaimedCall extends Watermark, ClaimToken {
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
  /** From when its next call is looked for: those due before are known. Milliseconds since 1970. */
  readonly nextFrom: number;
  /** Whether to tell what is locked before the last call that is claimed. It takes a second walk over those. */
  readonly tellsLocked: boolean;
}

export interface ClaimResult {
  /** Oldest due first for each handler. */
  readonly calls: ClaimedCall[];
  /**
   * By handler: its first call that is due, and was not claimed because somebody has it locked; or, of as many as were
   * asked for, because it comes after them.
   */
  readonly locked: ReadonlyMap<string, Watermark>;
  /** When the claim was sent, on this process's monotonic clock. */
  readonly sentAt: number;
  /** Milliseconds since 1970, by the database's clock, when the claim decided what is due. */
  readonly now: number;
  /** When the next call is due that was not due yet, in the same terms. Infinity when there is none within the horizon. */
  readonly nextDueAt: number;
  /** Up to when it looked, in the same terms. */
  readonly horizon: number;
}

const LAST_CLAIM = 2 ** 31 - 1;

const UNIQUE_VIOLATION = /^23505$/;
/** For how long claims look out for twins once there was one, in milliseconds. */
const TWINS_LAST = 60_000;

/** Claims due calls, on the instance's session. */
export class FutureCallClaimStore {
  private claims = 0;
  private besideTwinsUntil = -Infinity;
  /**
   * How far ahead of now it looks for the next call, in milliseconds: what is due later is found by the polls. Not further,
   * because the way leads over dead rows: under a held snapshot those of all calls that were cancelled stay.
   */
  private readonly horizon: number;

  constructor(
    options: ResolvedOptions,
    private readonly session: FutureCallSession,
  ) {
    this.horizon = options.pollInterval + 1_000;
  }

  /**
   * Claims at most `limit` due calls. A claim without a clean answer may have been committed: the session is abandoned,
   * and what was claimed is found and released over the next one.
   */
  async claim(requests: readonly ClaimRequest[], limit: number): Promise<ClaimResult> {
    const { id: instanceId } = this.session.instance;
    const claim = (this.claims = this.claims === LAST_CLAIM ? 1 : this.claims + 1);
    const { claim: plain, claimBesideTwins } = this.session.statements;
    const statement = monotonic() < this.besideTwinsUntil ? claimBesideTwins : plain;
    let rows: Row[];
    let sentAt: number;
    try {
      ({ rows, sentAt } = await this.session.query(statement, [
        requests.map(({ name }) => name),
        requests.map(({ free }) => free),
        requests.map(({ since }) => since.dueAt),
        requests.map(({ since }) => since.id),
        requests.map(({ nextFrom }) => nextFrom),
        limit,
        instanceId,
        claim,
        this.session.backendPid,
        this.horizon,
        requests.some(({ tellsLocked }) => tellsLocked),
      ]));
    } catch (error) {
      if (statement === plain && isServerError(error, UNIQUE_VIOLATION)) {
        this.besideTwinsUntil = monotonic() + TWINS_LAST;
        return this.claim(requests, limit);
      }
      // An error that the server sent is an answer: it has rolled back. Anything else leaves open what it did.
      if (!isServerError(error)) {
        this.session.abandon('a claim has no clean answer, and may have been committed');
      }
      throw error;
    }
    const [, , pid, now, nextDueAt] = rows.pop()!;
    this.session.requireBackend(Number(pid));
    const locked = new Map<string, Watermark>();
    while (rows.at(-1)?.[0] === null) {
      const [, name, id, , dueAt] = rows.pop()!;
      locked.set(name!, { id: id!, dueAt: dueAt! });
    }
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
      locked,
      sentAt,
      now: Number(now),
      nextDueAt: nextDueAt == null ? Infinity : parseTimestamp(nextDueAt),
      horizon: Number(now) + this.horizon,
    };
  }

  /** When the first pending call of these handlers is due, in milliseconds since 1970, or null when there is none. */
  async nextDueAt(names: readonly string[]): Promise<number | null> {
    const {
      rows: [row],
    } = await this.session.query(this.session.statements.nextDueAt, [names]);
    return row![0] == null ? null : Number(row![0]);
  }
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

/** Whether the server itself sent it: it has a SQLSTATE. */
function isServerError(error: unknown, sqlState = /^[0-9A-Z]{5}$/): boolean {
  return error instanceof pg.DatabaseError && sqlState.test(error.code ?? '');
}
