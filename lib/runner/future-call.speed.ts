/** How much work is claimed ahead: what starts in this many milliseconds. */
const WINDOW = 50;
/** The shortest time over which a speed is measured, in milliseconds. */
const SHORTEST_SAMPLE = 5;
/** A measurement older than this says nothing about now, in milliseconds. */
const STALE_AFTER = 1_000;

/** How fast a handler's calls have been starting lately. */
export class FutureCallSpeed {
  private starts = 0;
  private sampledAt = 0;
  private speed = 0;

  /** A call starts. */
  count(): void {
    this.starts++;
  }

  /** There is work again after a pause: the pause is not the handler's slowness. */
  wake(now: number): void {
    if (now - this.sampledAt > STALE_AFTER) this.speed = 0;
    this.starts = 0;
    this.sampledAt = now;
  }

  /** How many start in the time that is claimed ahead, at the speed of late. */
  perWindow(now: number): number {
    const elapsed = now - this.sampledAt;
    if (elapsed >= SHORTEST_SAMPLE) {
      const measured = this.starts / elapsed;
      // A handler that speeds up is believed at once, one that slows down by and by.
      this.speed = measured > this.speed || elapsed > STALE_AFTER ? measured : (this.speed + measured) / 2;
      this.starts = 0;
      this.sampledAt = now;
    }
    return Math.floor(this.speed * WINDOW);
  }
}
