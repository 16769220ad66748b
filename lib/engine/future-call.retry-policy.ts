import ms from 'ms';
import { LONGEST_BACKOFF, parseDuration, type Duration } from '../common/duration.js';
import { DoNotRetryError, RetryError } from '../contract/future-call.errors.js';
import type { FutureCallHandlerOptions } from '../contract/future-call.types.js';
import type { NextAttempt } from '../store/future-call.ending-store.js';

/** The default backoff: twice as long each time, in milliseconds. A rescue uses it too. */
export const DEFAULT_BACKOFF = { delay: 1_000, max: 3_600_000 } as const;

/**
 * When a call that failed is tried again; undefined when it is not. What the handler threw decides first, then its
 * backoff. Throws what a backoff function throws, or `RangeError` when it answers no length of time.
 */
export function nextAttempt(
  { attempts = 1, backoff = { type: 'exponential' } }: FutureCallHandlerOptions,
  attempt: number,
  error: unknown,
): NextAttempt | undefined {
  if (attempt >= attempts || error instanceof DoNotRetryError) return undefined;
  if (error instanceof RetryError) return error.at === undefined ? { delay: error.delay! } : { at: error.at };
  if (typeof backoff === 'function') return { delay: answered(backoff(attempt, error)) };
  if (backoff.type === 'fixed') return { delay: parseDuration(backoff.delay) };
  const { delay = DEFAULT_BACKOFF.delay, max = DEFAULT_BACKOFF.max } = backoff;
  return exponential(attempt, parseDuration(delay), parseDuration(max));
}

/** For the log. */
export function inWords(next: NextAttempt): string {
  return 'at' in next ? `at ${next.at.toISOString()}` : `in ${ms(Math.round(next.delay))}`;
}

/** The second half at random, so that calls that failed together do not come back together. */
export function exponential(attempt: number, delay: number, max: number): NextAttempt {
  const whole = Math.min(max, delay * 2 ** (attempt - 1));
  return { delay: whole / 2 + (Math.random() * whole) / 2 };
}

function answered(duration: Duration): number {
  const delay = parseDuration(duration);
  if (delay <= LONGEST_BACKOFF) return Math.max(0, delay);
  throw new RangeError(`A backoff of ${delay} ms is longer than a year.`);
}
