import vm from 'node:vm';
import { describe, expect, it } from 'vitest';
import { nextAttempt } from '../../lib/engine/future-call.retry-policy.js';
import {
  DoNotRetryError,
  FutureCallTimeError,
  RetryError,
  type FutureCallHandlerOptions,
} from '../../lib/index.js';

const error = new Error('no');
const HOUR = 3_600_000;

/** So many waits after the same attempt. */
const waits = (options: FutureCallHandlerOptions, attempt: number, count = 200) =>
  Array.from({ length: count }, () => (nextAttempt(options, attempt, error) as { delay: number }).delay);

describe('an exponential backoff', () => {
  it.each<[string, FutureCallHandlerOptions, attempt: number, whole: number]>([
    ['the default', { attempts: 1_000 }, 1, 1_000],
    ['the default', { attempts: 1_000 }, 2, 2_000],
    ['the default', { attempts: 1_000 }, 5, 16_000],
    ['the default', { attempts: 1_000 }, 13, HOUR],
    ['the default', { attempts: 1_000 }, 999, HOUR],
    ['one of its own', { attempts: 9, backoff: { type: 'exponential', delay: '1m' } }, 3, 240_000],
    ['one with an end', { attempts: 9, backoff: { type: 'exponential', delay: 10, max: '1s' } }, 8, 1_000],
  ])('(%s: %j) waits after attempt %i from half of %i ms to all of it', (_what, options, attempt, whole) => {
    const all = waits(options, attempt);
    for (const wait of all) {
      expect(wait).toBeGreaterThanOrEqual(whole / 2);
      expect(wait).toBeLessThanOrEqual(whole);
    }
    // What failed together does not come back together.
    expect(new Set(all).size).toBeGreaterThan(100);
    expect(Math.max(...all) - Math.min(...all)).toBeGreaterThan(whole / 4);
  });
});

it('a fixed backoff is the same each time', () => {
  const options: FutureCallHandlerOptions = { attempts: 9, backoff: { type: 'fixed', delay: '5s' } };
  expect([...waits(options, 1, 3), ...waits(options, 8, 3)]).toEqual(Array(6).fill(5_000));
});

describe('a backoff that is a function', () => {
  it('gets the attempt and what was thrown, and answers any length of time', () => {
    const given: unknown[] = [];
    const backoff = (attempt: number, thrown: unknown) => {
      given.push([attempt, thrown]);
      return { minutes: attempt };
    };
    expect(nextAttempt({ attempts: 5, backoff }, 3, 'just text')).toEqual({ delay: 180_000 });
    expect(given).toEqual([[3, 'just text']]);
  });

  const answering = (answer: unknown) => () =>
    nextAttempt({ attempts: 5, backoff: () => answer as number }, 1, error);

  it.each([NaN, Infinity, 'soon', undefined, null, '2y', { months: 1 }])('may not answer %j', (answer) => {
    expect(answering(answer)).toThrow(RangeError);
    expect(answering(answer)).toThrow(/^the answer /);
  });

  it.each([-1, '-1s', { minutes: -1 }])('that answers %j is wrong: not at once', (answer) => {
    expect(answering(answer)).toThrow(/^the answer .*-1.* is negative/);
    expect(answering(0)()).toEqual({ delay: 0 });
  });

  it('that is async is told to answer at once, and its rejection ends no process', async () => {
    const rejection = Promise.reject(new Error('of the backoff'));
    const unhandled: unknown[] = [];
    const listen = (reason: unknown) => unhandled.push(reason);
    process.on('unhandledRejection', listen);
    expect(answering(rejection)).toThrow(
      /the answer is a promise, and a backoff function must answer at once/,
    );
    expect(answering(Promise.resolve(5))).toThrow(/must answer at once/);
    // Node tells of a rejection that nobody handles when the microtasks are done, which is before the next turn.
    await new Promise((resolve) => void setImmediate(resolve));
    process.off('unhandledRejection', listen);
    expect(unhandled).toEqual([]);
  });
});

describe('RetryError', () => {
  it.each([undefined, null, 5, {}, { delay: undefined }, { after: '5m' }])(
    'takes a delay or a time, not %j',
    (when) => {
      expect(() => new RetryError(when as never)).toThrow(FutureCallTimeError);
      expect(() => new RetryError(when as never)).toThrow(/takes either a delay, .*, or a time, /);
    },
  );

  it('does not choose between both', () => {
    const both = { delay: '1h', at: new Date(0) } as never;
    expect(() => new RetryError(both)).toThrow(FutureCallTimeError);
    expect(() => new RetryError(both)).toThrow(/takes either .*"1h".*1970/);
  });

  it.each<[unknown, string]>([
    [-1, "RetryError's delay cannot be negative, but it is -1."],
    ['-5m', 'cannot be negative, but it is "-5m"'],
    ['', 'RetryError\'s delay: "" is not a length of time'],
    [null, "RetryError's delay: null is not a length of time"],
    [
      { months: 1 },
      "Months and years, which have no fixed length, are units of a call's delay alone. For a date, use at.",
    ],
    ['2 months', "use '60d'. For a date, use at."],
  ])('refuses a delay of %j', (delay, message) => {
    const make = () => new RetryError({ delay: delay as number });
    expect(make).toThrow(FutureCallTimeError);
    expect(make).toThrow(message);
  });

  it('takes a Date of another realm', () => {
    const at = vm.runInNewContext('new Date(0)') as Date;
    expect(new RetryError({ at }).at).toBe(at);
  });
});

describe('there is no further attempt', () => {
  it('without attempts, and after the last one', () => {
    expect(nextAttempt({}, 1, error)).toBeUndefined();
    expect(nextAttempt({ attempts: 3 }, 2, error)).toBeDefined();
    expect(nextAttempt({ attempts: 3 }, 3, error)).toBeUndefined();
    // A release with fewer attempts may meet a call of one with more.
    expect(nextAttempt({ attempts: 3 }, 7, error)).toBeUndefined();
    expect(nextAttempt({ attempts: 3 }, 3, new RetryError({ delay: 0 }))).toBeUndefined();
  });

  it('after a DoNotRetryError', () => {
    expect(nextAttempt({ attempts: 3 }, 1, new DoNotRetryError('no such user'))).toBeUndefined();
  });
});

it('RetryError decides before the backoff', () => {
  const options: FutureCallHandlerOptions = { attempts: 3, backoff: { type: 'fixed', delay: '5s' } };
  const at = new Date('2100-01-01T00:00:00Z');
  expect(nextAttempt(options, 1, new RetryError({ delay: '2h' }))).toEqual({ delay: 2 * HOUR });
  expect(nextAttempt(options, 1, new RetryError({ at }))).toEqual({ at });
});
