/** How much work is claimed ahead, and at one time: what ends in so many milliseconds. */
export const WINDOW = 50;
/** The clock's own noise, in milliseconds: nothing is measured to take less. */
const SHORTEST_TIME = 0.001;
/** How many more calls are claimed ahead than have ended: ten say little about four thousand. */
const LARGEST_STEP = 8;
/** What a handler did before a pause this long says nothing about now, in milliseconds. */
const STALE_AFTER = 1_000;
/** How many are claimed of a handler that has hardly started any lately: it may keep the event loop with each. */
const FIRST_STARTS = 10;
/** So many starts say for how long it does: the very first one is slow, whatever it does. */
const KNOWN_AFTER = 3;
/** Over about so many calls a mean is taken. */
const MEAN_OF = 32;

/**
 * How long a handler's calls take, lately. Not how many end: ten that were started together and took two seconds end in
 * one millisecond, and are no sign of haste.
 */
export class FutureCallSpeed {
  private starts = 0;
  private ends = 0;
  /** Means, in milliseconds: from the start to the end, and for how long a start keeps the event loop. */
  private took = 0;
  private blocked = 0;
  private lastAt = -Infinity;

  /** A call has started, and has kept the event loop for so long. */
  started(now: number, blockedFor: number): void {
    if (now - blockedFor - this.lastAt > STALE_AFTER) this.forget();
    this.lastAt = now;
    this.blocked += (blockedFor - this.blocked) / Math.min(++this.starts, MEAN_OF);
  }

  /** A call has ended, so long after its start. */
  ended(now: number, after: number): void {
    this.lastAt = now;
    this.took += (after - this.took) / Math.min(++this.ends, MEAN_OF);
  }

  /** Nothing is known any more: it has turned out to be another one. */
  forget(): void {
    this.starts = this.ends = this.took = this.blocked = 0;
  }

  /** Whether it has had calls lately. */
  isKnown(now: number): boolean {
    return this.ends > 0 && now - this.lastAt <= STALE_AFTER;
  }

  /**
   * How many calls end within the window, with so many slots and a part of the event loop: nothing that takes longer
   * than that, since a process which is idle meanwhile could have started it.
   */
  perWindow(now: number, slots: number, part: number): number {
    if (!this.isKnown(now) || this.took > WINDOW) return 0;
    const inParallel = (slots * WINDOW) / Math.max(this.took, SHORTEST_TIME);
    return Math.floor(Math.min(inParallel * part, this.startsPerWindow(now, part), this.ends * LARGEST_STEP));
  }

  /**
   * How many calls start within the window, in a part of the event loop: handlers that keep it run one after the other.
   * That is known before any has ended.
   */
  startsPerWindow(now: number, part: number): number {
    if (this.starts < KNOWN_AFTER || now - this.lastAt > STALE_AFTER) return FIRST_STARTS;
    return (part * WINDOW) / Math.max(this.blocked, SHORTEST_TIME);
  }
}
