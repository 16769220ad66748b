import { describe, expect, it } from 'vitest';
import { FutureCallOptionsError, type FutureCallModuleOptions } from '../../lib/index.js';
import { DEFAULTS, resolveOptions, type ResolvedOptions } from '../../lib/module/future-call.options.js';

const DAY = 86_400_000;

describe('DEFAULTS', () => {
  it('are these', () => {
    expect(DEFAULTS).toEqual({
      execute: true,
      concurrency: 10,
      prefetch: true,
      pollInterval: 10_000,
      rescueAfter: 5_000,
      shutdownTimeout: 20_000,
      migrate: true,
      unknownNames: 'refuse',
      sessionUrl: undefined,
      preparedStatements: true,
      retention: { completed: 0, failed: 30 * DAY, interrupted: 30 * DAY, cancelled: 0 },
    } satisfies ResolvedOptions);
  });

  it('are what no options mean, and what they accept themselves', () => {
    expect(resolveOptions({})).toEqual(DEFAULTS);
    const { retention: _, ...defaults } = DEFAULTS;
    expect(resolveOptions(defaults as FutureCallModuleOptions)).toEqual(DEFAULTS);
    const nothing = Object.fromEntries(Object.keys(DEFAULTS).map((name) => [name, undefined]));
    expect(resolveOptions(nothing as FutureCallModuleOptions)).toEqual(DEFAULTS);
  });
});

/** For each option: what it takes, as it is resolved, and what it does not, with what the error says of the value. */
const OPTIONS: {
  [K in keyof FutureCallModuleOptions]-?: {
    takes: [given: NonNullable<FutureCallModuleOptions[K]>, resolved: unknown][];
    refuses: [given: unknown, message: RegExp][];
  };
} = {
  execute: {
    takes: [
      [true, true],
      [false, false],
      ['manual', 'manual'],
    ],
    refuses: ['true', 'false', '', 'auto', 0, 1, null, {}].map((given) => [
      given,
      /execute must be true, false or 'manual', but it is /,
    ]),
  },
  prefetch: flag('prefetch'),
  migrate: flag('migrate'),
  preparedStatements: flag('preparedStatements'),
  concurrency: {
    takes: [
      [1, 1],
      [10_000, 10_000],
    ],
    refuses: [0, -1, 1.5, 10_001, Number.MAX_SAFE_INTEGER, Infinity, NaN, '5', null, true, 5n, [5], {}].map(
      (given) => [given, /concurrency must be a whole number from 1 to 10000, but it is /],
    ),
  },
  pollInterval: duration('pollInterval', 100, 3_600_000),
  rescueAfter: duration('rescueAfter', 500, 300_000),
  shutdownTimeout: duration('shutdownTimeout', 0, 3_600_000),
  unknownNames: {
    takes: [
      ['refuse', 'refuse'],
      ['accept', 'accept'],
    ],
    refuses: ['', 'Accept', 'ignore', true, null, 0].map((given) => [
      given,
      /unknownNames must be 'refuse' or 'accept', but it is /,
    ]),
  },
  sessionUrl: {
    takes: [
      ['postgres://localhost/db', 'postgres://localhost/db'],
      ['postgresql://me:secret@/db?host=/tmp', 'postgresql://me:secret@/db?host=/tmp'],
    ],
    refuses: ['', 'localhost:5432', 'mysql://me:secret@localhost', ' postgres://x', 5432, null, true].map(
      (given) => [
        given,
        /^FutureCallModule's sessionUrl must be a connection string that begins with postgres:\/\/\.$/,
      ],
    ),
  },
  retention: {
    takes: [
      [{}, DEFAULTS.retention],
      [{ completed: '7d' }, { ...DEFAULTS.retention, completed: 7 * DAY }],
      [
        { failed: true, interrupted: false },
        { ...DEFAULTS.retention, failed: Infinity, interrupted: 0 },
      ],
      [{ cancelled: 1_000 }, { ...DEFAULTS.retention, cancelled: 1_000 }],
      [{ completed: { weeks: 1 } }, { ...DEFAULTS.retention, completed: 7 * DAY }],
    ],
    refuses: [
      [null, /retention must be an object such as/],
      ['7d', /retention must be an object such as .*but it is "7d"/],
      [[], /retention must be an object such as .*but it is \[\]/],
      [true, /retention must be an object/],
      [{ complete: '7d' }, /retention has no option "complete".*completed, failed, interrupted, cancelled/],
      [{ failed: -1 }, /retention\.failed must be a length of time from 1000 ms/],
      [{ failed: 0 }, /retention\.failed must be a length of time from 1000 ms/],
      [{ failed: 'for ever' }, /retention\.failed: "for ever" is not a length of time/],
      [{ failed: null }, /retention\.failed: null is not a length of time/],
      [{ failed: { months: 1 } }, /retention\.failed: "months" is not a unit of time here/],
    ],
  },
};

function flag(name: string) {
  return {
    takes: [
      [true, true],
      [false, false],
    ] as [boolean, boolean][],
    refuses: ['true', 'false', '', 0, 1, null, {}].map((given): [unknown, RegExp] => [
      given,
      new RegExp(`${name} must be true or false, but it is `),
    ]),
  };
}

function duration(name: string, least: number, most: number) {
  const outside = new RegExp(`${name} must be a length of time from ${least} ms to ${most} ms, but it is `);
  const none = new RegExp(`${name}: .* is not a (length of time|finite number)`);
  return {
    takes: [
      [least, least],
      [most, most],
      ['2s', 2_000],
      [{ seconds: 2 }, 2_000],
      [1_000.4, 1_000],
    ] as [number | string | { seconds: number }, number][],
    refuses: [
      [least - 1, outside],
      [most + 1, outside],
      ['-1s', outside],
      [Number.MAX_SAFE_INTEGER, outside],
      ['1y', outside],
      [NaN, none],
      [Infinity, none],
      ['soon', none],
      ['', none],
      [null, none],
      [true, none],
      [new Date(), none],
      [{}, /names no unit/],
      [{ months: 1 }, /"months" is not a unit of time here\. The units are weeks, days, hours/],
      [{ years: 1 }, /"years" is not a unit of time here/],
      [{ second: 1 }, /"second" is not a unit of time here/],
    ] as [unknown, RegExp][],
  };
}

describe.each(Object.entries(OPTIONS))('%s', (name, { takes, refuses }) => {
  it('takes what it takes', () => {
    for (const [given, resolved] of takes) {
      expect(resolveOptions({ [name]: given })).toEqual({ ...DEFAULTS, [name]: resolved });
    }
  });

  it('refuses everything else, and names itself', () => {
    for (const [given, message] of refuses) {
      const resolve = () => resolveOptions({ [name]: given });
      expect(resolve).toThrow(FutureCallOptionsError);
      expect(resolve).toThrow(`FutureCallModule's ${name}`);
      expect(resolve).toThrow(message);
    }
  });
});

it('a password in sessionUrl is in no message', () => {
  expect(() => resolveOptions({ sessionUrl: 'mysql://me:secret@localhost' })).toThrow(/^(?!.*secret)/);
});

it('an option that is none is refused, with those that are', () => {
  expect(() => resolveOptions({ concurency: 5 } as FutureCallModuleOptions)).toThrow(
    /FutureCallModule has no option "concurency"\. Its options are execute, concurrency, .*, dataSource\./,
  );
  expect(() => resolveOptions({ foo: 1, bar: 2 } as FutureCallModuleOptions)).toThrow(
    /has no option "foo", "bar"/,
  );
});

it.each([undefined, null, 'text', 5, [], () => ({})])('%s instead of options is refused', (given) => {
  expect(() => resolveOptions(given as unknown as FutureCallModuleOptions)).toThrow(
    /FutureCallModule takes an object of options, not /,
  );
});

it('dataSource comes too late from a factory, unless it is undefined', () => {
  expect(() => resolveOptions({ dataSource: 'x' } as FutureCallModuleOptions)).toThrow(/beside useFactory/);
  expect(resolveOptions({ dataSource: undefined } as FutureCallModuleOptions)).toEqual(DEFAULTS);
});
