import { parseTimestamp } from '../common/timestamp.js';
import type { ClaimRequest, ClaimResult, Watermark } from '../store/future-call.claim-store.js';

const FROM_THE_START: Watermark = { dueAt: '-infinity', id: '0' };
const LAST_ID = '9223372036854775807';
/** Of so few calls it costs next to nothing to tell what was passed over. */
const SMALL_CLAIM = 100;
const YEAR_ONE = Date.parse('0001-01-01T00:00:00Z');

/**
 * What the poller knows of one handler's calls, so that a claim looks only where something may be. Dead rows make the
 * way long: a claim leaves one for each call, and a snapshot that somebody holds keeps them all.
 */
export class PolledHandler {
  /** Whether there may be a due call. */
  mayHaveDue = true;
  /** Everything before is known to be claimed, or locked. */
  private since = FROM_THE_START;
  /** The calls due before are known, by the due timer or an announcement. Milliseconds since 1970. */
  private nextFrom = 0;
  /** The latest due time that was announced as due, and the latest of which a claim has to tell whether it was. */
  private latestDue = -Infinity;
  private askedFor = -Infinity;
  /** The earliest due time that was announced while a claim was on its way, in milliseconds since 1970. */
  private announced = Infinity;
  /** The first call that is due and that somebody has locked, as far as is known. */
  private locked: Watermark | undefined;
  /** Beyond this, claims may have passed over calls that somebody had locked, and did not tell. */
  private untold: Watermark | undefined;
  private looksAtLocked = false;

  constructor(readonly name: string) {}

  get hasLocked(): boolean {
    return this.locked !== undefined;
  }

  /**
   * There is a call due at that moment, in milliseconds since 1970, and unless it is one alone there may be later ones:
   * nothing that is known must hide them.
   */
  announce(dueAt: number, isDue = true, isOne = false): void {
    this.mayHaveDue ||= isDue;
    this.announced = Math.min(this.announced, dueAt);
    // One that is due is claimed. To look behind it for the next one would lead over all that was cancelled since.
    if (isOne && isDue && dueAt > 0) this.latestDue = Math.max(this.latestDue, dueAt);
    else this.nextFrom = Math.max(0, Math.min(this.nextFrom, dueAt));
    if (dueAt > parseTimestamp(this.since.dueAt)) return;
    this.since = dueAt < YEAR_ONE ? FROM_THE_START : { dueAt: new Date(dueAt).toISOString(), id: '0' };
  }

  get mayHaveLocked(): boolean {
    return this.hasLocked || this.untold !== undefined;
  }

  /** The next claim begins with what is locked, or may be. */
  lookAtLocked(): void {
    if (this.mayHaveLocked) this.looksAtLocked = this.mayHaveDue = true;
  }

  /** What to ask for, of `limit` in all. What is announced from here on may be missing from the answer. */
  request(free: number, limit: number): ClaimRequest {
    this.announced = Infinity;
    this.askedFor = Math.max(this.askedFor, this.latestDue);
    this.latestDue = -Infinity;
    const since = this.looksAtLocked ? this.beforeLocked() : this.since;
    const tellsLocked = this.looksAtLocked || limit <= SMALL_CLAIM || since === FROM_THE_START;
    this.looksAtLocked = false;
    return { name: this.name, free, since, nextFrom: this.nextFrom, tellsLocked };
  }

  /**
   * Learns from the answer to a request: how many of its calls were claimed, and the last of them. `wasCutShort`: others
   * may have got what it could have.
   */
  answered(
    request: ClaimRequest,
    { locked, now, nextDueAt, horizon }: ClaimResult,
    { count, last, wasCutShort }: { count: number; last: Watermark | undefined; wasCutShort: boolean },
  ): void {
    const gotAll = !wasCutShort && count < request.free;
    this.mayHaveDue = !gotAll;
    // All that was due is claimed: what becomes due by and by begins here, and what is inserted late is announced.
    if (gotAll) this.since = { dueAt: new Date(Math.floor(now)).toISOString(), id: LAST_ID };
    else if (last !== undefined) this.since = { dueAt: last.dueAt, id: last.id };
    this.nextFrom = Math.min(nextDueAt, horizon);
    if (this.askedFor > now) {
      // By the database's clock it was not due yet. The next claim tells when it is.
      this.nextFrom = 0;
      this.mayHaveDue = true;
    }
    this.askedFor = -Infinity;
    this.learnOfLocked(request, locked.get(this.name), gotAll ? 'all' : last);
  }

  /** What was announced while the claim was on its way, in milliseconds since 1970; undefined when nothing was. */
  get missed(): number | undefined {
    return this.announced === Infinity ? undefined : this.announced;
  }

  private beforeLocked(): Watermark {
    const locked = this.locked === undefined ? undefined : justBefore(this.locked);
    if (locked === undefined || this.untold === undefined) return locked ?? this.untold ?? this.since;
    return compare(locked, this.untold) < 0 ? locked : this.untold;
  }

  /** `last`: the last call that was claimed when there may be more; undefined when none was. */
  private learnOfLocked(
    { since, tellsLocked }: ClaimRequest,
    found: Watermark | undefined,
    last: Watermark | 'all' | undefined,
  ): void {
    if (last === undefined) return;
    if (last !== 'all' && !tellsLocked) {
      // A whole backlog is claimed like that. One look for all of it.
      if (this.untold === undefined || compare(since, this.untold) < 0) this.untold = since;
      return;
    }
    const isLocked = found !== undefined && (last === 'all' || compare(found, last) < 0);
    // What comes after the last one is told by the claims that follow: they begin there.
    if (this.locked === undefined || compare(since, this.locked) < 0)
      this.locked = isLocked ? found : undefined;
    if (this.untold !== undefined && compare(since, this.untold) <= 0) this.untold = undefined;
  }
}

const justBefore = ({ dueAt, id }: Watermark): Watermark => ({ dueAt, id: String(BigInt(id) - 1n) });

function compare(a: Watermark, b: Watermark): number {
  const byTime = parseTimestamp(a.dueAt) - parseTimestamp(b.dueAt);
  return byTime === 0 || Number.isNaN(byTime) ? Number(a.id) - Number(b.id) : byTime;
}
