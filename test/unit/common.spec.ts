import vm from 'node:vm';
import { describe, expect, it } from 'vitest';
import {
  describeError,
  errorText,
  MAX_MESSAGE,
  MAX_STACK,
  stackOf,
} from '../../lib/common/describe-error.js';
import { parseDuration } from '../../lib/common/duration.js';
import { show } from '../../lib/common/show.js';
import { sleep } from '../../lib/common/timers.js';
import { labelProblem, quoted, textProblem } from '../../lib/common/text.js';
import { parseTimestamp } from '../../lib/common/timestamp.js';

describe('parseTimestamp', () => {
  it.each([
    ['2026-01-31 09:00:00+00', '2026-01-31T09:00:00.000Z'],
    ['2026-01-31 09:00:00.5+00', '2026-01-31T09:00:00.500Z'],
    ['2026-01-31 09:00:00.123+00', '2026-01-31T09:00:00.123Z'],
    ['2026-01-31 09:00:00.123999+00', '2026-01-31T09:00:00.123Z'],
    ['1969-12-31 23:59:59.999+00', '1969-12-31T23:59:59.999Z'],
    ['0001-01-01 00:00:00+00', '0001-01-01T00:00:00.000Z'],
    ['9999-12-31 23:59:59.999+00', '9999-12-31T23:59:59.999Z'],
    ['10000-01-01 00:00:00+00', '+010000-01-01T00:00:00.000Z'],
    ['275760-09-13 00:00:00+00', '+275760-09-13T00:00:00.000Z'],
    ['0001-12-31 00:00:00+00 BC', '0000-12-31T00:00:00.000Z'],
    ['0044-03-15 12:00:00+00 BC', '-000043-03-15T12:00:00.000Z'],
    ['2026-01-31T09:00:00.5Z', '2026-01-31T09:00:00.500Z'],
    ['-infinity', '-271821-04-20T00:00:00.000Z'],
  ])('reads %s', (text, iso) => {
    expect(new Date(parseTimestamp(text)).toISOString()).toBe(iso);
  });

  it.each(['infinity', '294276-12-31 23:59:59+00', 'soon', ''])('cannot read %s', (text) => {
    expect(parseTimestamp(text)).toBeNaN();
  });
});

describe('parseDuration', () => {
  it('takes what delays take, but the units of a calendar', () => {
    expect([2_000, '2s', { seconds: 2 }].map(parseDuration)).toEqual([2_000, 2_000, 2_000]);
    expect(parseDuration('-2s')).toBe(-2_000);
    expect(() => parseDuration({ months: 1 })).toThrow(
      /"months" is not a unit of time here\. The units are weeks/,
    );
  });
});

describe('show', () => {
  class Money {
    constructor(readonly cents: number) {}
  }
  const circle: unknown[] = [];
  circle.push(circle);

  const table: [unknown, string][] = [
    ['text', '"text"'],
    ['', '""'],
    [1.5, '1.5'],
    [NaN, 'NaN'],
    [5n, '5n'],
    [null, 'null'],
    [undefined, 'undefined'],
    [true, 'true'],
    [Symbol('s'), 'Symbol(s)'],
    [() => 1, 'a function'],
    [Money, 'function Money'],
    [new Money(5), '{"cents":5}'],
    [new (class Empty {})(), 'an object of class Empty'],
    [[1, 'a'], '[1,"a"]'],
    [new Date(0), '1970-01-01T00:00:00.000Z'],
    [new Date(NaN), 'Invalid Date'],
    [circle, '[object Array]'],
    [{ big: 5n }, '[object Object]'],
    [{}, '{}'],
    [Promise.resolve(), '[object Promise]'],
    [new Map([[1, 2]]), '[object Map]'],
    ['x'.repeat(200), `"${'x'.repeat(99)}…`],
  ];

  it('is short and never throws', () => {
    expect(table.map(([value]) => show(value))).toEqual(table.map(([, text]) => text));
    const { proxy, revoke } = Proxy.revocable({}, {});
    revoke();
    for (const hostile of [
      proxy,
      Object.create(Date.prototype) as object,
      Object.defineProperty(() => 1, 'name', { value: Symbol('s') }),
    ]) {
      expect(show(hostile)).toMatch(/^something of type (object|function) that cannot be shown$/);
    }
  });
});

describe('text', () => {
  it('that PostgreSQL cannot store has a problem', () => {
    expect(textProblem('fine 😀')).toBeUndefined();
    expect(textProblem('a\0')).toMatch(/NUL/);
    expect(textProblem('\ud83d')).toMatch(/surrogate/);
  });

  it('that is a label has 1 to 255 characters, whatever their length in UTF-16', () => {
    expect(labelProblem('😀'.repeat(255))).toBeUndefined();
    expect(labelProblem('😀'.repeat(256))).toMatch(/longer than 255/);
    expect(labelProblem('')).toBe('is empty');
    expect(labelProblem(5)).toBe('is not a string');
  });
});

describe('quoted', () => {
  it('is one line, whoever has chosen the label', () => {
    expect(['a', 'b\nc"d', '\u2028e\u0085'].map(quoted)).toEqual([
      '"a"',
      String.raw`"b\nc\"d"`,
      String.raw`"\u2028e\u0085"`,
    ]);
  });
});

describe('sleep', () => {
  it('ends when the signal is aborted, and at once when it is already', async () => {
    const controller = new AbortController();
    const sleeping = sleep(1e9, controller.signal);
    controller.abort();
    await sleeping;
    await sleep(1e9, controller.signal);
    expect(controller.signal.aborted).toBe(true);
  });
});

describe('describeError', () => {
  it('keeps name, message, stack and causes', () => {
    const error = new TypeError('outer', { cause: new RangeError('inner', { cause: 'deepest' }) });
    expect(describeError(error)).toEqual({
      name: 'TypeError',
      message: 'outer',
      stack: expect.stringContaining('common.spec.ts'),
      cause: {
        name: 'RangeError',
        message: 'inner',
        stack: expect.stringContaining('RangeError: inner'),
        cause: { name: 'string', message: 'deepest' },
      },
    });
  });

  it.each<[string, unknown, { name: string; message: string }]>([
    ['undefined', undefined, { name: 'undefined', message: 'undefined' }],
    ['null', null, { name: 'null', message: 'null' }],
    ['empty text', '', { name: 'string', message: "''" }],
    ['text', 'oops', { name: 'string', message: 'oops' }],
    ['a number', 5, { name: 'number', message: '5' }],
    ['an object', { code: 5 }, { name: 'object', message: '{ code: 5 }' }],
    ['a symbol', Symbol('s'), { name: 'symbol', message: 'Symbol(s)' }],
  ])('describes %s', (_what, thrown, description) => {
    expect(describeError(thrown)).toEqual(description);
  });

  const refused = (address: string) =>
    Object.assign(new Error(`connect ECONNREFUSED ${address}`), { code: 'ECONNREFUSED' });
  /** As Node makes it for a host with two addresses. */
  const unreachable = () =>
    Object.assign(new AggregateError([refused('::1:1'), refused('127.0.0.1:1')]), { code: 'ECONNREFUSED' });

  it('keeps the errors of an AggregateError, and their codes', () => {
    expect(describeError(unreachable())).toMatchObject({
      name: 'AggregateError',
      message: 'connect ECONNREFUSED ::1:1; connect ECONNREFUSED 127.0.0.1:1',
      code: 'ECONNREFUSED',
      errors: [
        { name: 'Error', message: 'connect ECONNREFUSED ::1:1', code: 'ECONNREFUSED' },
        { name: 'Error', message: 'connect ECONNREFUSED 127.0.0.1:1', code: 'ECONNREFUSED' },
      ],
    });
    const inner = new AggregateError(['text', refused('x')], 'All promises were rejected');
    expect(describeError(new TypeError('fetch failed', { cause: inner }))).toMatchObject({
      cause: {
        message: 'All promises were rejected',
        errors: [{ name: 'string' }, { code: 'ECONNREFUSED' }],
      },
    });
  });

  it('keeps few of many: the first, and the nearest', () => {
    const errors = Array.from(
      { length: 1_000 },
      (_, i) => new AggregateError([new Error(`${i}`)], `of ${i}`),
    );
    const { errors: kept, cause } = describeError(new AggregateError(errors, 'all', { cause: 'the end' }));
    expect(kept!.map(({ message }) => message)).toEqual(['of 0', 'of 1', 'of 2', 'of 3', 'of 4']);
    expect(cause).toMatchObject({ message: 'the end' });
    const tree = (depth: number): Error =>
      depth === 0
        ? new Error('x'.repeat(1e6))
        : new AggregateError(Array.from({ length: 9 }, () => tree(depth - 1)));
    expect(JSON.stringify(describeError(tree(4))).length).toBeLessThan(150_000);
  });

  it('takes errors of another realm for errors, and what has their looks', () => {
    expect(
      describeError(vm.runInNewContext(`new TypeError('far away', { cause: new Error('further') })`)),
    ).toMatchObject({
      name: 'TypeError',
      message: 'far away',
      stack: expect.stringContaining('TypeError: far away'),
      cause: { name: 'Error', message: 'further' },
    });
    const looks = { name: 'PrismaError', message: 'looks like one', stack: 'at x', code: 'P2002' };
    expect(describeError(looks)).toEqual(looks);
    expect(describeError({ name: 'a person', message: 'hello' })).toMatchObject({ name: 'object' });
  });

  it('never has an empty message', () => {
    expect(describeError(new Error(''))).toMatchObject({ name: 'Error', message: '(no message)' });
    expect(describeError(Object.assign(new Error(' '), { code: 'EPIPE' }))).toMatchObject({
      message: 'EPIPE',
    });
    expect(describeError(new AggregateError([]))).toMatchObject({ message: '(no message)' });
    expect(describeError(Object.assign(new Error('x'), { name: '' }))).toMatchObject({ name: 'Error' });
  });

  it('keeps what can be read of an error whose code, stack or cause cannot', () => {
    const get = () => {
      throw new Error('hands off');
    };
    const error = Object.defineProperties(new Error('readable'), {
      code: { get },
      stack: { get },
      cause: { get },
      errors: { get },
    });
    expect(describeError(error)).toEqual({ name: 'Error', message: 'readable' });
  });

  const round = new Error('round');
  round.cause = round;
  it.each<[string, unknown, string]>([
    ['an error', new Error('x'), 'x'],
    ['a kind of error', new TypeError('x'), 'TypeError: x'],
    ['text', 'x', 'x'],
    ['nothing', undefined, 'undefined'],
    ['an error of no words', new Error(), '(no message)'],
    [
      'no address that answers',
      unreachable(),
      'AggregateError: connect ECONNREFUSED ::1:1; connect ECONNREFUSED 127.0.0.1:1',
    ],
    ['a code', Object.assign(new Error('no right.'), { code: '42501' }), 'no right (code 42501)'],
    ['a number as code', Object.assign(new Error('no right'), { code: 7 }), 'no right (code 7)'],
    ['an old code of a class', new DOMException('aborted', 'AbortError'), 'AbortError: aborted'],
    [
      'a cause',
      new TypeError('fetch failed', { cause: refused('x') }),
      'TypeError: fetch failed, caused by connect ECONNREFUSED x',
    ],
    [
      'a cause that is said',
      new Error('Saving failed: full', { cause: new Error('full') }),
      'Saving failed: full',
    ],
    ['a circle', round, 'round'],
    [
      'inner errors',
      new AggregateError(['one', new Error('two')], 'All failed.'),
      'AggregateError: All failed (one; two)',
    ],
    [
      'several lines',
      new Error('one\n  two\r\nthree\u2028four\u0085five\fsix'),
      'one two three four five six',
    ],
  ])('says on one line what is to be said of %s', (_what, thrown, line) => {
    expect(errorText(thrown)).toBe(line);
  });

  it('has a stack with those of the causes and the inner errors', () => {
    const stack = stackOf(describeError(new Error('outer', { cause: unreachable() })))!;
    expect(stack).toMatch(
      /^Error: outer\n {4}at [^]*Caused by: AggregateError[^]*One of its errors: Error: connect ECONNREFUSED ::1:1\n {4}at /,
    );
    expect(stackOf(describeError('text'))).toBeUndefined();
  });

  it('cuts what is long, and says how long it was', () => {
    const error = new Error('x'.repeat(100_000));
    const { message, stack } = describeError(error);
    expect(message).toBe(`${'x'.repeat(MAX_MESSAGE)}… (100000 characters)`);
    expect(stack!.length).toBeLessThan(MAX_STACK + 100);
  });

  it('follows causes a few levels, also around a circle', () => {
    const error = new Error('round');
    error.cause = error;
    let depth = 0;
    for (let at = describeError(error).cause; at !== undefined; at = at.cause) depth++;
    expect(depth).toBe(5);
  });

  it('writes what PostgreSQL cannot store as text that it can', () => {
    expect(describeError(new Error('a\0b\ud800'))).toMatchObject({ message: 'a\\0b\ufffd' });
  });

  it('never throws', () => {
    const throws = (thrown: unknown) => () => {
      throw thrown;
    };
    const hostile = new Proxy({}, { get: throws(new Error('hands off')) });
    for (const thrown of [new Error('hands off'), Object.create(null), hostile]) {
      const error = Object.defineProperty(new Error('x'), 'message', { get: throws(thrown) });
      expect(describeError(error)).toEqual({
        name: 'Unreadable',
        message: 'What was thrown cannot be read: looking at it throws.',
      });
    }
    for (const odd of [
      Object.assign(new Error('x'), { name: undefined }),
      Object.assign(new Error('x'), { message: { a: 1 } }),
      Object.assign(new Error('x'), { stack: 5 }),
      Object.assign(new Error('x'), { name: Symbol('s') }),
      Object.create(null),
      hostile,
      Object.assign(new Error('x'), { message: Object.create(null) as object }),
      Object.defineProperty({}, 'stack', { enumerable: true, get: throws(null) }),
    ]) {
      expect(JSON.stringify(describeError(odd))).toMatch(/^\{"name":"/);
    }
  });
});
