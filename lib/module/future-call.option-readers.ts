import { parseDuration } from '../common/duration.js';
import { show } from '../common/show.js';
import { FutureCallOptionsError } from '../contract/future-call.errors.js';

// What an option may be. Each reader answers with the value as the library uses it, or throws FutureCallOptionsError,
// naming the option, the value and what it takes.

/** Throws `FutureCallOptionsError` for what is no object of options. */
/** @param example what such an object looks like, where another thing is often given */
export function requireObject(owner: string, options: unknown, example = ''): void {
  if (typeof options === 'object' && options !== null && !Array.isArray(options)) return;
  // Not the value: a connection string has a password in it.
  throw new FutureCallOptionsError(`${owner} takes an object of options${example}, not ${kindOf(options)}.`);
}

function kindOf(value: unknown): string {
  if (value === null || value === undefined) return String(value);
  return Array.isArray(value) ? 'an array' : `a ${typeof value}`;
}

/** Throws `FutureCallOptionsError` for a name that is no option: most often a typo that would do nothing. */
export function refuseUnknown(owner: string, options: object, known: readonly string[]): void {
  const unknown = Object.keys(options).filter((name) => !known.includes(name));
  if (unknown.length === 0) return;
  throw new FutureCallOptionsError(
    `${owner} has no option ${unknown.map((name) => `"${name}"`).join(', ')}. Its options are ${known.join(', ')}.`,
  );
}

/** A reader of whole numbers from 1. */
export function wholeNumberTo(most: number) {
  return (name: string, value: unknown): number => {
    if (Number.isInteger(value) && (value as number) >= 1 && (value as number) <= most)
      return value as number;
    throw wrong(name, value, `a whole number from 1 to ${most}`);
  };
}

/** A handler's number of attempts. */
export const attempts = wholeNumberTo(1_000);

/** A number of slots. */
export const concurrency = wholeNumberTo(10_000);

/** Whether a process runs calls: `true`, `false`, or `'manual'`. */
export function execution(name: string, value: unknown): boolean | 'manual' {
  if (typeof value === 'boolean' || value === 'manual') return value;
  throw wrong(name, value, `true, false or 'manual'`);
}

export function boolean(name: string, value: unknown): boolean {
  if (typeof value === 'boolean') return value;
  throw wrong(name, value, 'true or false');
}

export function oneOf<T extends string>(...allowed: T[]) {
  return (name: string, value: unknown): T => {
    if (allowed.includes(value as T)) return value as T;
    throw wrong(name, value, allowed.map((one) => `'${one}'`).join(' or '));
  };
}

/** A reader of lengths of time between two, in milliseconds. */
export function durationBetween(least: number, most: number) {
  return (name: string, value: unknown): number => {
    let duration: number;
    try {
      duration = Math.round(parseDuration(value));
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      throw new FutureCallOptionsError(`${name}: ${error.message}`, { cause: error });
    }
    if (duration >= least && duration <= most) return duration;
    throw wrong(name, value, `a length of time from ${least} ms to ${most} ms`);
  };
}

export function postgresUrl(name: string, value: unknown): string {
  if (typeof value === 'string' && /^postgres(ql)?:\/\//.test(value)) return value;
  // The value may hold a password.
  throw new FutureCallOptionsError(`${name} must be a connection string that begins with postgres://.`);
}

/** The error for a value that an option does not take. */
export function wrong(name: string, value: unknown, expected: string): FutureCallOptionsError {
  return new FutureCallOptionsError(`${name} must be ${expected}, but it is ${show(value)}.`);
}
