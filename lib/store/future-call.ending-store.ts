import { keptForATime, type ResolvedOptions } from '../module/future-call.options.js';
import type { Row } from './future-call.connection.js';
import type { ClaimedCall, ClaimToken } from './future-call.claim-store.js';
import { FutureCallSession } from './future-call.session.js';

/** How an attempt ended. `error` is the JSON of an error record without its time; null when it completed. */
export interface AttemptEnd {
  readonly call: ClaimedCall;
  readonly error: string | null;
  /** Given when the call is to be tried again. */
  readonly next?: NextAttempt | undefined;
  /** It was sent before, and not answered: it may be recorded. */
  mayBeRecorded?: boolean;
}

/** When the next attempt is: so many milliseconds after this one is recorded, or at a time. */
export type NextAttempt = { readonly delay: number } | { readonly at: Date };

/** What became of ends that were sent. */
export interface Recording {
  readonly recorded: readonly AttemptEnd[];
  /** Somebody has locked what they would change: try again. */
  readonly locked: readonly AttemptEnd[];
  /** Their calls are neither running nor have they an outcome: somebody has taken them away. */
  readonly lost: readonly AttemptEnd[];
}

/** What became of claimed calls that were to be given back. Those that are in neither are no longer claimed. */
export interface GivingBack {
  readonly released: readonly { id: string; name: string; identifier: string | null }[];
  /** Somebody has them locked: try again. */
  readonly locked: readonly ClaimToken[];
}

/**
 * Records how attempts ended, gives claimed calls back, and deletes old outcomes, all of it on the instance's session.
 */
export class FutureCallEndingStore {
  constructor(
    private readonly options: ResolvedOptions,
    private readonly session: FutureCallSession,
  ) {}

  /** Records attempts that completed. Rejects when nothing of it was recorded, or nobody knows. */
  async complete(ends: readonly AttemptEnd[]): Promise<Recording> {
    const { statements, instance } = this.session;
    const isKept = this.options.retention.completed > 0;
    const values = isKept ? [...tokens(ends), instance.host, instance.pid] : tokens(ends);
    const { count } = await this.session.query(
      isKept ? statements.completeAndKeep : statements.complete,
      values,
    );
    if (count === ends.length) return allOf(ends);
    const { completeUnlocked, completeUnlockedAndKeep } = statements;
    const { rows } = await this.session.query(isKept ? completeUnlockedAndKeep : completeUnlocked, values);
    return this.settle(ends, idsOf(rows), count);
  }

  /** Records attempts that failed, and are the last ones of their calls. As `complete`. */
  async fail(ends: readonly AttemptEnd[]): Promise<Recording> {
    if (this.options.retention.failed === 0) return this.forget(ends);
    const { statements, instance } = this.session;
    const errors = ends.map(({ error }) => error);
    const { rows } = await this.session.query(statements.fail, [
      ...tokens(ends),
      errors,
      instance.host,
      instance.pid,
    ]);
    return this.settle(ends, idsOf(rows));
  }

  /** Records attempts that failed and are followed by another one. As `complete`. */
  async retry(ends: readonly AttemptEnd[]): Promise<Recording> {
    const { rows } = await this.session.query(this.session.statements.retry, [
      ...tokens(ends),
      ends.map(({ error }) => error),
      ends.map(({ next }) => (next !== undefined && 'delay' in next ? next.delay : null)),
      ends.map(({ next }) => (next !== undefined && 'at' in next ? next.at.getTime() : null)),
    ]);
    return this.settle(ends, idsOf(rows));
  }

  /** Gives claimed calls back that were never started, with the attempt that the claim counted. */
  async release(calls: readonly ClaimToken[]): Promise<GivingBack> {
    const { rows } = await this.session.query(this.session.statements.release, tokensOf(calls));
    return this.givenBack(rows);
  }

  /** Gives back what is claimed by this instance but is not among `known`. */
  async releaseUnknown(known: readonly ClaimToken[]): Promise<GivingBack> {
    const { statements, instance } = this.session;
    const { rows } = await this.session.query(statements.releaseUnknown, [...tokensOf(known), instance.id]);
    return this.givenBack(rows);
  }

  /** Deletes a batch of each kind of old outcomes, unless another instance is at it. Answers with how many. */
  async prune(): Promise<number> {
    const { count } = await this.session.query(this.session.statements.prune, keptForATime(this.options));
    return count;
  }

  /** Failures of which no outcome is kept. */
  private async forget(ends: readonly AttemptEnd[]): Promise<Recording> {
    const { rows } = await this.session.query(this.session.statements.completeUnlocked, tokens(ends));
    return this.settle(ends, idsOf(rows));
  }

  /**
   * Finds out about ends that were not recorded as they should have been.
   *
   * @param found the ids of those that were
   * @param more how many more were, of which the ids are not known
   */
  private async settle(
    ends: readonly AttemptEnd[],
    found: ReadonlySet<string>,
    more = 0,
  ): Promise<Recording> {
    if (found.size === ends.length) return allOf(ends);
    const left = ends.filter(({ call }) => !found.has(call.id));
    const corrected = await this.correct(left.filter(({ next }) => next === undefined));
    const { rows } = await this.session.query(this.session.statements.whereabouts, tokens(left));
    const whereabouts = new Map(rows.map(([id, runs, outcome]) => [id, { runs: runs === 't', outcome }]));
    const locked: AttemptEnd[] = [];
    const nowhere: AttemptEnd[] = [];
    for (const end of left) {
      const { runs, outcome } = whereabouts.get(end.call.id)!;
      // An outcome that has to be corrected and was not is locked too.
      if (runs || (outcome === 'interrupted' && end.next === undefined && !corrected.has(end.call.id)))
        locked.push(end);
      else if (outcome === null && !end.mayBeRecorded) nowhere.push(end);
    }
    const lost = nowhere.length > more ? nowhere : [];
    const others = new Set([...locked, ...lost]);
    return { recorded: ends.filter((end) => !others.has(end)), locked, lost };
  }

  /** Puts right what a rescuer has guessed. Answers with the ids of those calls. */
  private async correct(ends: readonly AttemptEnd[]): Promise<ReadonlySet<string>> {
    if (ends.length === 0) return new Set();
    const errors = ends.map(({ error }) => error);
    const { rows } = await this.session.query(this.session.statements.correct, [...tokens(ends), errors]);
    return idsOf(rows);
  }

  private givenBack(rows: readonly Row[]): GivingBack {
    const of = (kind: string) => rows.filter(([is]) => is === kind);
    return {
      released: of('released').map(([, id, name, identifier]) => ({
        id: id!,
        name: name!,
        identifier: identifier!,
      })),
      locked: of('locked').map(([, id, , , claim]) => ({
        id: id!,
        instanceId: this.session.instance.id,
        claim: Number(claim),
      })),
    };
  }
}

function allOf(ends: readonly AttemptEnd[]): Recording {
  return { recorded: ends, locked: [], lost: [] };
}

/** The ids in the first column, without the rows of notifications. */
function idsOf(rows: readonly Row[]): ReadonlySet<string> {
  return new Set(rows.flatMap(([id]) => id ?? []));
}

function tokens(ends: readonly AttemptEnd[]): [string, string, string] {
  return tokensOf(ends.map(({ call }) => call));
}

/** Claim tokens as three parallel arrays, written as PostgreSQL reads them: numbers need none of pg's quoting. */
function tokensOf(calls: readonly ClaimToken[]): [string, string, string] {
  return [
    `{${calls.map(({ id }) => id).join()}}`,
    `{${calls.map(({ instanceId }) => instanceId).join()}}`,
    `{${calls.map(({ claim }) => claim).join()}}`,
  ];
}
