/** How much work is claimed ahead: what ends in this many milliseconds. */
const WINDOW = 50;
/** A handler is believed to be slower only after having worked for this long, in milliseconds. */
const SHORTEST_SAMPLE = 5;
/** The clock's own noise, in milliseconds: nothing is measured to take less. */
const SHORTEST_TIME = 0.05;
/** How much more than a sample had is claimed ahead at the most: ten calls say little about four thousand. */
const LARGEST_STEP = 8;
/** What a handler did before a pause this long says nothing about now, in milliseconds. */
const STALE_AFTER = 1_000;

/** How fast a handler's calls have been ending lately, measured over the time in which it had some. */
export class FutureCallSpeed {
  private ends = 0;
  private busy = 0;
  private busySince: number | undefined;
  private idleSince = -Infinity;
  private ahead = 0;

  /** It has calls. */
  begin(now: number): void {
    if (this.busySince !== undefined) return;
    if (now - this.idleSince > STALE_AFTER) this.ahead = this.ends = this.busy = 0;
    this.busySince = now;
  }

  /** One has ended. */
  count(): void {
    this.ends++;
  }

  /** It has none any more: waiting for the next claim is not its slowness. */
  pause(now: number): void {
    this.sample(now);
    this.busySince = undefined;
    this.idleSince = now;
  }

  /** How many end in the time that is claimed ahead, at the speed of late. */
  perWindow(now: number): number {
    if (this.busySince !== undefined) this.sample(now);
    else if (now - this.idleSince > STALE_AFTER) return 0;
    return Math.floor(this.ahead);
  }

  private sample(now: number): void {
    this.busy += now - this.busySince!;
    this.busySince = now;
    const measured = Math.min(
      (this.ends / Math.max(this.busy, SHORTEST_TIME)) * WINDOW,
      this.ends * LARGEST_STEP,
    );
    if (measured <= this.ahead && this.busy < SHORTEST_SAMPLE) return;
    // One that speeds up is believed at once, one that slows down by and by.
    this.ahead = measured > this.ahead ? measured : (this.ahead + measured) / 2;
    this.ends = this.busy = 0;
  }
}
