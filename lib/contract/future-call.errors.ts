import { types } from 'node:util';
import { LONGEST_BACKOFF, parseDuration, type Duration } from '../common/duration.js';
import { show } from '../common/show.js';

/**
 * The base of every error this library throws itself. Errors of the database
 * (connection, deadlock, serialization) are not wrapped: an app's own
 * transaction retry looks at them.
 */
export abstract class FutureCallError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** An option of the module, of a handler or of a single call has a wrong value, or a name that does not exist. */
export class FutureCallOptionsError extends FutureCallError {}

/** A handler is declared wrongly: no or two owners of a name, no `invoke`, not decorated. */
export class FutureCallHandlerError extends FutureCallError {}

/** `data` holds something that JSON, or PostgreSQL's `jsonb`, cannot carry. */
export class FutureCallDataError extends FutureCallError {}

/** A delay or a time is not one, or lies outside what can be stored. */
export class FutureCallTimeError extends FutureCallError {}

/** The tables are missing, foreign, or of a version that this code cannot work with. */
export class FutureCallSchemaError extends FutureCallError {}

/**
 * The instance's dedicated connection cannot be had, or is not what it must be; or this is not the time to run calls: the app
 * has not booted, or closes.
 */
export class FutureCallSessionError extends FutureCallError {}

/** A call was scheduled for a name that this process has no handler for. */
export class UnknownFutureCallError extends FutureCallError {}

/**
 * For a handler to throw, when another attempt would be of no use: the call ends as `failed` even if attempts
 * remain. Give it the `cause`.
 */
export class DoNotRetryError extends FutureCallError {}

/**
 * For a handler to throw, to say when the next attempt is: after `delay` or `at` a time. The call fails all the same
 * when no attempt remains.
 */
export class RetryError extends FutureCallError {
  /** Milliseconds from when the attempt's end is recorded, or undefined when `at` is given. */
  readonly delay: number | undefined;
  readonly at: Date | undefined;

  /** @throws FutureCallTimeError for what is no delay or no time, for both, and for neither */
  constructor(
    when: { delay: Duration; at?: undefined } | { at: Date; delay?: undefined },
    message = 'To be tried again.',
    options?: ErrorOptions,
  ) {
    super(message, options);
    // A string has an at() of its own.
    const { delay, at } = (typeof when === 'object' && when !== null ? when : {}) as {
      delay?: unknown;
      at?: unknown;
    };
    if ((at === undefined) === (delay === undefined)) {
      throw new FutureCallTimeError(
        `RetryError takes either a delay, { delay: '10m' }, or a time, { at: date }, but it is ${show(when)}.`,
      );
    }
    if (at !== undefined) this.at = readTime(at);
    else this.delay = readDuration(delay);
  }
}

const EARLIEST = Date.parse('0001-01-01T00:00:00Z');
const LATEST = Date.parse('9999-12-31T23:59:59.999Z');

function readTime(at: unknown): Date {
  if (types.isDate(at) && at.getTime() >= EARLIEST && at.getTime() <= LATEST) return at;
  throw new FutureCallTimeError(
    `RetryError's at must be a Date of the years 1 to 9999, but it is ${show(at)}.`,
  );
}

function readDuration(delay: unknown): number {
  let parsed: number;
  try {
    parsed = parseDuration(delay);
  } catch (error) {
    throw new FutureCallTimeError(`RetryError's delay: ${(error as RangeError).message} For a date, use at.`);
  }
  if (parsed < 0) {
    throw new FutureCallTimeError(`RetryError's delay cannot be negative, but it is ${show(delay)}.`);
  }
  if (parsed <= LONGEST_BACKOFF) return parsed;
  throw new FutureCallTimeError(`RetryError's delay ${show(delay)} is longer than a year. Use at.`);
}
