import { clearTimeout, monotonic, setTimeout } from '../common/timers.js';

/** How long to wait before looking again, in milliseconds, at the least. */
const SHORTEST_WAIT = 1_000;
/** It waits for this part of the time for which there has been something: a call is late by that much at the most. */
const PART_OF_AGE = 1 / 10;
/** A look that takes long, over 100,000 locked rows, is repeated only after so many times as long. */
const TIMES_OF_LOOK = 20;

/**
 * When to look again for calls that somebody has locked: a transaction that cancels them, and may be rolled back. Nobody
 * tells when it is. They are due already, so each look is one statement, and none waits for the lock.
 */
export class FutureCallLockWatch {
  private timer: NodeJS.Timeout | undefined;
  private since: number | undefined;

  /** @param longest milliseconds: a poll finds them too */
  constructor(
    private readonly longest: number,
    private readonly lookAgain: () => void,
  ) {}

  /** Whether something is locked, and whether it may be, after a claim that took so many milliseconds. */
  seen(isLocked: boolean, mayBe: boolean, took: number): void {
    if (!mayBe) {
      this.stop();
      return;
    }
    // A backlog that lasts is no lock that lasts.
    if (!isLocked) this.since = undefined;
    if (this.timer !== undefined) return;
    this.since ??= monotonic();
    const wait = Math.max(SHORTEST_WAIT, (monotonic() - this.since) * PART_OF_AGE, took * TIMES_OF_LOOK);
    this.timer = setTimeout(
      () => {
        this.timer = undefined;
        this.lookAgain();
      },
      Math.min(wait, this.longest),
    );
  }

  stop(): void {
    clearTimeout(this.timer);
    this.timer = this.since = undefined;
  }
}
