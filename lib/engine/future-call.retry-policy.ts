import ms from 'ms';
import { LONGEST_BACKOFF, parseDuration } from '../common/duration.js';
import { show } from '../common/show.js';
import { isThenable } from '../common/waiting.js';
import { DoNotRetryError, RetryError } from '../contract/future-call.errors.js';
import type { FutureCallHandlerOptions } from '../contract/future-call.types.js';
import type { NextAttempt } from '../store/future-call.ending-store.js';

/** The default backoff: twice as long each time, in milliseconds. A rescue uses it too. */
export const DEFAULT_BACKOFF = { delay: 1_000, max: 3_600_000 } as const;

/**
 * When a call that failed is tried again; undefined when it is not. What the handler threw decides first, then its
 * backoff. Throws what a backoff function throws, or `RangeError` when what it answers is no wait.
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

function answered(answer: unknown): number {
  if (isThenable(answer)) {
    // Nobody else waits for it, and a rejection that nobody handles ends the process.
    Promise.resolve(answer).catch(() => {});
    throw new RangeError(
      'the answer is a promise, and a backoff function must answer at once. Let the handler throw RetryError for what takes time.',
    );
  }
  const delay = readAnswer(answer);
  if (delay < 0) throw new RangeError(`the answer ${show(answer)} is negative. 0 is at once.`);
  if (delay <= LONGEST_BACKOFF) return delay;
  throw new RangeError(`the answer ${show(answer)} is longer than a year.`);
}

function readAnswer(answer: unknown): number {
  try {
    return parseDuration(answer);
  } catch (error) {
    throw new RangeError(`the answer ${(error as RangeError).message}`);
  }
}
