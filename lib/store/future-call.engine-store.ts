import pg from 'pg';
import { parseTimestamp } from '../common/timestamp.js';
import { monotonic } from '../common/timers.js';
import { keptForATime, type ResolvedOptions } from '../module/future-call.options.js';
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

/** How an attempt ended. `error` is the JSON of an error record without its time; null when it completed. */
export interface AttemptEnd {
  readonly call: ClaimedCall;
  readonly error: string | null;
  /** Given when the call is to be tried again. */
  readonly next?: NextAttempt | undefined;
}

/** When the next attempt is: so many milliseconds after this one is recorded, or at a time. */
export type NextAttempt = { readonly delay: number } | { readonly at: Date };

const LAST_CLAIM = 2 ** 31 - 1;

const UNIQUE_VIOLATION = /^23505$/;
/** For how long claims look out for twins once there was one, in milliseconds. */
const TWINS_LAST = 60_000;

/** What the engine asks of the database for its calls, all of it on the instance's session. */
export class FutureCallEngineStore {
  private claims = 0;
  private besideTwinsUntil = -Infinity;

  constructor(
    private readonly options: ResolvedOptions,
    private readonly session: FutureCallSession,
  ) {}

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
        limit,
        instanceId,
        claim,
        this.session.backendPid,
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
    const [, pid, now, , nextDueAt] = rows.pop()!;
    this.session.requireBackend(Number(pid));
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
    const retried = ends.filter(({ next }) => next !== undefined);
    const failed = ends.filter(({ error, next }) => error !== null && next === undefined);
    // All are sent at once; the session runs them in turn.
    const counts = await Promise.all([
      completed.length > 0 ? this.complete(completed) : 0,
      failed.length > 0 ? this.fail(failed) : 0,
      retried.length > 0 ? this.retry(retried) : 0,
    ]);
    if (counts[0] + counts[1] + counts[2] === ends.length) return;
    const final = ends.filter(({ next }) => next === undefined);
    await this.session.query(this.session.statements.correct, [
      ...tokens(final),
      final.map(({ error }) => error),
    ]);
  }

  private async complete(ends: readonly AttemptEnd[]): Promise<number> {
    const { statements, instance } = this.session;
    const { count } = await (this.options.retention.completed > 0
      ? this.session.query(statements.completeAndKeep, [...tokens(ends), instance.host, instance.pid])
      : this.session.query(statements.complete, tokens(ends)));
    return count;
  }

  private async fail(ends: readonly AttemptEnd[]): Promise<number> {
    const { statements, instance } = this.session;
    const errors = ends.map(({ error }) => error);
    const { count } = await (this.options.retention.failed > 0
      ? this.session.query(statements.fail, [...tokens(ends), errors, instance.host, instance.pid])
      : this.session.query(statements.complete, tokens(ends)));
    return count;
  }

  private async retry(ends: readonly AttemptEnd[]): Promise<number> {
    const { rows } = await this.session.query(this.session.statements.retry, [
      ...tokens(ends),
      ends.map(({ error }) => error),
      ends.map(({ next }) => (next !== undefined && 'delay' in next ? next.delay : null)),
      ends.map(({ next }) => (next !== undefined && 'at' in next ? next.at.getTime() : null)),
    ]);
    return rows.filter(([id]) => id !== null).length;
  }

  /** Gives claimed calls back that were never started, with the attempt that the claim counted. Answers with their ids. */
  async release(calls: readonly ClaimedCall[]): Promise<string[]> {
    const { rows } = await this.session.query(
      this.session.statements.release,
      tokens(calls.map((call) => ({ call }))),
    );
    return rows.flatMap(([id]) => id ?? []);
  }

  /** Gives back what is claimed by this instance but is not among `known`. */
  async releaseUnknown(known: readonly ClaimedCall[]): Promise<void> {
    await this.session.query(this.session.statements.releaseUnknown, [
      ...tokens(known.map((call) => ({ call }))),
      this.session.instance.id,
    ]);
  }

  /** When the first pending call of these handlers is due, in milliseconds since 1970, or null when there is none. */
  async nextDueAt(names: readonly string[]): Promise<number | null> {
    const {
      rows: [row],
    } = await this.session.query(this.session.statements.nextDueAt, [names]);
    return row![0] == null ? null : Number(row![0]);
  }

  /** Deletes a batch of each kind of old outcomes, unless another instance is at it. Answers with how many. */
  async prune(): Promise<number> {
    const { count } = await this.session.query(this.session.statements.prune, keptForATime(this.options));
    return count;
  }
}

/** Claim tokens as three parallel arrays, written as PostgreSQL reads them: numbers need none of pg's quoting. */
function tokens(ends: readonly { call: ClaimedCall }[]): [string, string, string] {
  return [
    `{${ends.map(({ call }) => call.id).join()}}`,
    `{${ends.map(({ call }) => call.instanceId).join()}}`,
    `{${ends.map(({ call }) => call.claim).join()}}`,
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

/** Whether the server itself sent it: it has a SQLSTATE. */
function isServerError(error: unknown, sqlState = /^[0-9A-Z]{5}$/): boolean {
  return error instanceof pg.DatabaseError && sqlState.test(error.code ?? '');
}
