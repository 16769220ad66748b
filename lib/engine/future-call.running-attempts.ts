import type { FutureCallAttempt } from './future-call.attempt.js';

/**
 * The attempts that run, in no order. Not a Set: a busy one outgrows its table all the time, and V8 chains the old tables
 * to the new one, so that whatever was ever in it stays in memory until the next full collection.
 */
export class RunningAttempts {
  private readonly all: FutureCallAttempt[] = [];

  get size(): number {
    return this.all.length;
  }

  add(attempt: FutureCallAttempt): void {
    attempt.place = this.all.push(attempt) - 1;
  }

  /** Takes one away that is there. */
  delete(attempt: FutureCallAttempt): void {
    const last = this.all.pop()!;
    if (last === attempt) return;
    this.all[attempt.place] = last;
    last.place = attempt.place;
  }

  [Symbol.iterator](): Iterator<FutureCallAttempt> {
    return this.all[Symbol.iterator]();
  }
}
