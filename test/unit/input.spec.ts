import vm from 'node:vm';
import pg from 'pg';
import { describe, expect, it } from 'vitest';
import { FutureCallDataError, FutureCallOptionsError, FutureCallTimeError } from '../../lib/index.js';
import {
  readData,
  readDelay,
  readIdentifier,
  readTime,
  requireIdentifier,
  requireOptions,
} from '../../lib/scheduling/future-call.input.js';

/** What reading it throws, which must be of that class. */
function refusal(read: () => unknown, type: new (message: string) => Error): string {
  let thrown: unknown;
  try {
    read();
  } catch (error) {
    thrown = error;
  }
  expect(thrown).toBeInstanceOf(type);
  return (thrown as Error).message;
}

describe('a delay', () => {
  it.each<[unknown, number, number]>([
    [0, 0, 0],
    [-0, 0, -0],
    [1.5, 0, 1.5],
    ['90m', 0, 5_400_000],
    ['1y', 0, 31_557_600_000],
    ['2 days', 0, 172_800_000],
    ['100', 0, 100],
    [{ hours: 1.5 }, 0, 5_400_000],
    [{ months: 1 }, 1, 0],
    [
      { years: 2, months: 3, weeks: 1, days: 1, hours: 1, minutes: 1, seconds: 1, milliseconds: 1 },
      27,
      694_861_001,
    ],
    [{ days: 1, hours: -1 }, 0, 82_800_000],
    [{ years: 1, months: -1 }, 11, 0],
    [{ days: 1, hours: undefined }, 0, 86_400_000],
    [Object.assign(Object.create(null) as object, { hours: 1 }), 0, 3_600_000],
    [{ years: 7_900 }, 94_800, 0],
  ])('%j is %d months and %d ms', (delay, months, milliseconds) => {
    expect(readDelay(delay)).toEqual({ months, milliseconds });
  });

  it.each<[string, unknown, RegExp]>([
    ['is negative', -1, /cannot be negative, but it is -1/],
    ['is negative text', '-1d', /cannot be negative/],
    ['is negative in sum', { hours: 1, minutes: -61 }, /cannot be negative.*, and minutes is -61\.$/],
    ['has negative months', { months: -1, weeks: 10 }, /cannot be negative.*, and months is -1\.$/],
    [
      'has days that no month makes up for',
      { months: 1, days: -40 },
      /cannot be negative.*, and days is -40\.$/,
    ],
    ['is a month as text', '1 month', /"1 month" is not a length of time.*use \{ months: 1 \}/],
    ['is a month in short', '1mo', /use \{ months: 1 \}/],
    ['is months as text', '2 months', /use \{ months: 2 \}/],
    ['is NaN', NaN, /NaN is not a finite number/],
    ['is Infinity', Infinity, /Infinity is not a finite number/],
    ['is Infinity less Infinity', { weeks: 1e305, days: -1e306 }, /NaN is not a finite number/],
    ['is Infinity in sum', { weeks: 1e305 }, /Infinity is not a finite number/],
    ['is Infinity in months', { years: 1e308 }, /leads beyond the year 9999/],
    ['is no length of time', 'tomorrow', /"tomorrow" is not a length of time\. Use milliseconds/],
    ['is empty text', '', /"" is not a length of time/],
    ['is very long text', '1'.repeat(1_000), /is not a length of time/],
    ['is a Date', new Date(), /is not a length of time\. Use callAtTime\(\)/],
    ['is null', null, /null is not a length of time/],
    ['is missing', undefined, /undefined is not a length of time/],
    ['is a bigint', 5n, /5n is not a length of time/],
    ['is an array', [1], /is not a length of time/],
    ['is a function', () => 1, /a function is not a length of time/],
    ['names no unit', {}, /names no unit/],
    ['names only what is undefined', { days: undefined }, /names no unit/],
    [
      'names a unit that is none',
      { day: 1 },
      /"day" is not a unit of time here\. The units are years, months/,
    ],
    ['names what every object has', { toString: 1 }, /"toString" is not a unit/],
    ['has a unit of no number', { days: '1' }, /"1" is not a finite number/],
    ['has a part of a month', { months: 0.5 }, /months must be a whole number, but it is 0\.5/],
    ['has a part of a year', { years: 1.5 }, /years must be a whole number/],
    ['leads too far', { years: 8_000 }, /leads beyond the year 9999/],
    ['leads much too far', 1e300, /leads beyond the year 9999/],
  ])('that %s is refused', (_what, delay, message) => {
    const text = refusal(() => readDelay(delay), FutureCallTimeError);
    expect(text).toMatch(message);
    expect(text).toMatch(/^delay: |^A delay /);
  });
});

describe('a time', () => {
  it.each(['0001-01-01T00:00:00.000Z', '2027-01-01T00:00:00.123Z', '9999-12-31T23:59:59.999Z'])(
    '%s',
    (text) => {
      expect(readTime(new Date(text))).toBe(Date.parse(text));
    },
  );

  it.each<[string, unknown, RegExp]>([
    ['text', '2027-01-01', /it is "2027-01-01"\. Pass new Date\("2027-01-01"\), or use callWithDelay/],
    ['a number', 0, /A time must be a Date, but it is 0\. Use callWithDelay\(\) for a delay/],
    ['missing', undefined, /A time must be a Date, but it is undefined/],
    ['null', null, /A time must be a Date, but it is null/],
    ['what only looks like a Date', Object.create(Date.prototype), /A time must be a Date/],
    ['an Invalid Date', new Date('soon'), /Invalid Date/],
    ['before the year 1', new Date(Date.parse('0001-01-01T00:00:00Z') - 1), /outside the years 1 to 9999/],
    ['after the year 9999', new Date('+010000-01-01T00:00:00Z'), /outside the years 1 to 9999/],
  ])('that is %s is refused', (_what, time, message) => {
    expect(refusal(() => readTime(time), FutureCallTimeError)).toMatch(message);
  });
});

describe('data', () => {
  const twice = { a: [{}] };
  it.each<[string, unknown, string | null]>([
    ['undefined', undefined, null],
    ['null', null, null],
    ['a toJSON() that returns null', { toJSON: () => null }, null],
    ['a toJSON() that returns nothing', { toJSON: () => {} }, null],
    ['zero', 0, '0'],
    ['false', false, 'false'],
    ['empty text', '', '""'],
    ['text', 'null', '"null"'],
    ['an array with what JSON leaves out', [undefined, () => 1, Symbol('s')], '[null,null,null]'],
    ['an object with what JSON leaves out', { a: undefined, b: () => 1, c: Symbol('s'), d: 1 }, '{"d":1}'],
    ['a Date', { at: new Date(0) }, '{"at":"1970-01-01T00:00:00.000Z"}'],
    ['boxed primitives', [Object(1), Object('a'), Object(true)], '[1,"a",true]'],
    ['one object twice', [twice, twice], '[{"a":[{}]},{"a":[{}]}]'],
    ['a whole surrogate pair', '😀', '"😀"'],
  ])('%s is written', (_what, data, json) => {
    expect(readData(data)).toBe(json);
  });

  const circle: Record<string, unknown> = { name: 'round' };
  circle['back'] = [circle];
  const self: unknown[] = [];
  self.push(self);
  let endless: unknown = 1;
  for (let i = 0; i < 100_000; i++) endless = { a: endless };

  it.each<[string, unknown, RegExp]>([
    ['a bigint', 5n, /^data is the bigint 5n.*Pass it as a string/],
    ['a bigint inside', { a: [{ 'b c': 5n }] }, /^data\.a\[0\]\."b c" is the bigint 5n/],
    ['a function', () => 1, /^data is a function, which JSON cannot carry/],
    ['a class', class Money {}, /^data is function Money/],
    ['a symbol', Symbol('s'), /^data is Symbol\(s\)/],
    ['NaN', { a: NaN }, /^data\.a is NaN/],
    ['Infinity', [Infinity], /^data\[0\] is Infinity/],
    ['minus Infinity', -Infinity, /^data is -Infinity/],
    ['a Map', { m: new Map() }, /^data\.m is a Map.*Object\.fromEntries/],
    ['a Set', new Set([1]), /^data is a Set.*\[\.\.\.set\]/],
    ['a Buffer', { file: Buffer.from('x') }, /^data\.file is binary \(Buffer\).*base64/],
    ['a typed array', new Uint8Array(1), /^data is binary \(Uint8Array\)/],
    ['a DataView', new DataView(new ArrayBuffer(1)), /^data is binary \(DataView\)/],
    ['an ArrayBuffer', [new ArrayBuffer(1)], /^data\[0\] is binary \(ArrayBuffer\)/],
    ['a SharedArrayBuffer', new SharedArrayBuffer(1), /^data is binary \(SharedArrayBuffer\)/],
    ['an Invalid Date', { at: new Date('soon') }, /^data\.at is an Invalid Date/],
    ['a NUL character', { a: 'x\0' }, /^data\.a has a NUL character/],
    ['a NUL character in a key', { a: { 'x\0': 1 } }, /^data\.a\."x\\u0000" has a key with a NUL character/],
    ['half a surrogate pair', ['\ud800'], /^data\[0\] has half of a surrogate pair/],
    ['half a surrogate pair in a key', { '\udc00': 1 }, /has a key with half of a surrogate pair/],
    ['a circle', circle, /^data\.back\[0\] contains itself/],
    ['an array in itself', self, /^data\[0\] contains itself/],
    ['a boxed NaN', { a: Object(NaN) }, /^data\.a is NaN/],
    ['a boxed bigint', Object(5n), /^data is the bigint 5n/],
    ['boxed text with a NUL character', [Object('\0')], /^data\[0\] has a NUL character/],
    ['NaN from toJSON()', { a: { toJSON: () => NaN } }, /^data\.a is NaN/],
    ['a boxed symbol', [Object(Symbol('s'))], /^data\[0\] is Symbol\(s\), which JSON cannot carry/],
    ['a Map with a property', Object.assign(new Map(), { a: 1 }), /^data is a Map/],
    ['a Map behind a proxy', [new Proxy(new Map(), {})], /^data\[0\] is a Map/],
    ['a Map from toJSON()', { toJSON: () => new Map() }, /^data is a Map/],
    ['a promise that nobody awaited inside', { email: Promise.resolve(1) }, /^data\.email is a Promise/],
    ['a promise that nobody awaited', Promise.resolve(1), /^data is a Promise.*Await it/],
    ['endless nesting', endless, /nested too deeply/],
  ])('%s is refused, with the path', (_what, data, message) => {
    expect(refusal(() => readData(data), FutureCallDataError)).toMatch(message);
  });

  class Money {
    readonly #cents = 5;
    get cents() {
      return this.#cents;
    }
  }
  class Bag {
    readonly #items = [1];
    [Symbol.iterator]() {
      return this.#items.values();
    }
  }
  class Hidden {
    constructor() {
      Object.defineProperty(this, 'secret', { value: 1 });
    }
  }

  it.each<[string, unknown, RegExp]>([
    ['URLSearchParams', new URLSearchParams('a=1'), /is a URLSearchParams, .* Pass its toString\(\)/],
    ['Headers', new Headers({ a: '1' }), /is a Headers, .* Pass Object\.fromEntries\(headers\)/],
    ['FormData', new FormData(), /is a FormData, .* Pass Object\.fromEntries\(form\)/],
    ['a Request', new Request('http://localhost'), /is a Request, .* await request\.json\(\)/],
    ['a Response', new Response('x'), /is a Response, .* await response\.json\(\)/],
    ['a Blob', new Blob(['x']), /is a Blob, .* Store it elsewhere/],
    ['a WeakMap', new WeakMap(), /is a WeakMap, .* Pass what the handler needs of it/],
    ['a WeakRef', new WeakRef({}), /is a WeakRef, /],
    ['an iterator', [1].values(), /is an Array Iterator, .* Pass \[\.\.\.it\]/],
    ['a generator', (function* () {})(), /is a Generator, .* Pass \[\.\.\.it\]/],
    ['an async generator', (async function* () {})(), /is an AsyncGenerator, /],
    ['an AbortSignal', new AbortController().signal, /is an AbortSignal, /],
    ['a formatter', new Intl.NumberFormat(), /is an Intl\.NumberFormat, /],
    ['a DOMException', new DOMException('x'), /is a DOMException, |is an Error, /],
    ['private state behind getters', new Money(), /is a Money, .* or give its class a toJSON\(\)/],
    [
      'private state that can be iterated',
      new Bag(),
      /is a Bag, .* Pass \[\.\.\.it\], or give its class a toJSON/,
    ],
    ['hidden properties', new Hidden(), /is a Hidden, /],
    ['inherited data', Object.create({ a: 1 }), /is an object, /],
  ])('%s would be written as {}: refused', (_what, value, message) => {
    const text = refusal(() => readData({ a: [value] }), FutureCallDataError);
    expect(text).toMatch(/^data\.a\[0\] is /);
    expect(text).toMatch(message);
  });

  it.each<[string, unknown, string]>([
    ['without properties', new (class Ping {})(), '{}'],
    [
      'with methods',
      new (class Ping {
        hello() {}
      })(),
      '{}',
    ],
    [
      'with a getter beside its properties',
      new (class Named {
        first = 'a';
        get full() {
          return 'b';
        }
      })(),
      '{"first":"a"}',
    ],
    ['that can be iterated, with properties', Object.assign(new Bag(), { n: 1 }), '{"n":1}'],
    ['with a toJSON()', Object.assign(new Money(), { toJSON: () => 5 }), '5'],
    [
      'of a Set with a toJSON()',
      new (class Tags extends Set {
        toJSON() {
          return [...this];
        }
      })(['a']),
      '["a"]',
    ],
    [
      'of an Error with a toJSON()',
      Object.assign(new Error('x'), { toJSON: () => ({ message: 'x' }) }),
      '{"message":"x"}',
    ],
    ['of another realm', vm.runInNewContext('({ a: {}, b: [] })'), '{"a":{},"b":[]}'],
    ['that is a URL', new URL('http://localhost/'), '"http://localhost/"'],
    ['without a prototype', Object.create(null), '{}'],
  ])('an instance %s is honest', (_what, value, json) => {
    expect(readData(value)).toBe(json);
  });

  describe('that throws when it is written', () => {
    const own = new RangeError('mine');
    const throws = (thrown: unknown) => () => {
      throw thrown;
    };
    it.each<[string, unknown, RegExp, unknown]>([
      [
        'a toJSON()',
        { a: [{}, { toJSON: throws(own) }] },
        /^data\.a\[1\] .* its toJSON\(\) throws \(RangeError: mine\)/,
        own,
      ],
      [
        'a toJSON() of the whole',
        { toJSON: throws(own) },
        /^data cannot be written as JSON: its toJSON/,
        own,
      ],
      ['a toJSON() that throws text', [{ toJSON: throws('no') }], /^data\[0\] .* throws \(no\)/, 'no'],
      [
        'a toJSON() that throws nothing',
        [{ toJSON: throws(undefined) }],
        /^data\[0\] .* throws \(undefined\)/,
        undefined,
      ],
      [
        'what another toJSON() has answered',
        { toJSON: () => ({ b: { toJSON: throws(own) } }) },
        /^data\.b /,
        own,
      ],
      [
        'a getter',
        { a: Object.defineProperty({}, 'b c', { enumerable: true, get: throws(own) }) },
        /^data\.a\."b c" .* its getter throws/,
        own,
      ],
      [
        'a getter for toJSON',
        [Object.defineProperty({}, 'toJSON', { get: throws(own) })],
        /^data\[0\] .* looking for its toJSON\(\) throws/,
        own,
      ],
      [
        'a proxy',
        [new Proxy({}, { ownKeys: throws(own) })],
        /^data\[0\] .* looking at its properties throws/,
        own,
      ],
    ])('%s: says where, and why', (_what, data, message, cause) => {
      let thrown: unknown;
      try {
        readData(data);
      } catch (error) {
        thrown = error;
      }
      expect(thrown).toBeInstanceOf(FutureCallDataError);
      expect((thrown as Error).message).toMatch(message);
      expect(thrown).toHaveProperty('cause', cause);
    });

    it('is not nested too deeply, unless it is', () => {
      const around = { toJSON: (): unknown => around.toJSON() };
      expect(() => readData({ a: around })).toThrow(
        /^data\.a cannot be written as JSON: its toJSON\(\) throws \(.*call stack/,
      );
      const endlessly = { toJSON: () => ({ again: endlessly }) } as object;
      expect(() => readData(endlessly)).toThrow(/^data is nested too deeply/);
    });

    it('only once', () => {
      let reads = 0;
      const once = {
        get a() {
          if (reads++ === 0) throw own;
          return 1;
        },
      };
      expect(refusal(() => readData(once), FutureCallDataError)).toMatch(
        /^data cannot be written as JSON: RangeError: mine/,
      );
    });
  });
});

describe('an identifier', () => {
  it.each(['x', ' ', 'x'.repeat(255), '😀'.repeat(255)])('%s is taken', (identifier) => {
    expect(readIdentifier(identifier)).toBe(identifier);
    expect(() => requireIdentifier(identifier)).not.toThrow();
  });

  it.each([undefined, null])('%s is none, where one is optional', (identifier) => {
    expect(readIdentifier(identifier)).toBeNull();
    expect(refusal(() => requireIdentifier(identifier), FutureCallOptionsError)).toMatch(/is not a string/);
  });

  it.each<[string, unknown, RegExp]>([
    ['empty', '', /"" is empty/],
    ['a number', 42, /42 is not a string\. .*: pass String\(42\)\.$/],
    ['256 characters long', 'x'.repeat(256), /longer than 255 characters/],
    ['256 emoji long', '😀'.repeat(256), /longer than 255 characters/],
    ['text with a NUL character', 'a\0', /has a NUL character/],
    ['half a surrogate pair', '\ud800', /has half of a surrogate pair/],
    ['an object', { id: 1 }, /\{"id":1\} is not a string/],
    ['a bigint', 5n, /5n is not a string/],
  ])('that is %s is refused', (_what, identifier, message) => {
    for (const read of [readIdentifier, requireIdentifier]) {
      const text = refusal(() => read(identifier), FutureCallOptionsError);
      expect(text).toMatch(message);
      expect(text).toMatch(/The identifier .* An identifier is a string of 1 to 255 characters/);
    }
  });
});

describe('the options of a call', () => {
  it.each<[string, unknown, RegExp]>([
    [
      'an unknown one',
      { identifer: 'x' },
      /callWithDelay\(\) has no option "identifer".*identifier, manager/,
    ],
    ['null', null, /callWithDelay\(\) takes an object of options, such as { identifier }, not null/],
    ['text', 'label', /takes an object of options, such as { identifier }, not a string/],
    ['an array', [], /takes an object of options, such as { identifier }, not an array/],
    ['a manager that is none', { manager: {} }, /manager must be the EntityManager of your transaction/],
    ['null as the manager', { manager: null }, /manager must be the EntityManager/],
    ['what knows the data source, but asks nothing', { manager: { dataSource: {} } }, /manager must be the/],
    ['a class as the manager', { manager: class {} }, /manager must be the EntityManager/],
    ['a client of pg as the manager', { manager: new pg.Client() }, /manager must be the EntityManager/],
  ])('%s: refused', (_what, options, message) => {
    const read = () => requireOptions('callWithDelay', options as object, ['identifier', 'manager']);
    expect(refusal(read, FutureCallOptionsError)).toMatch(message);
  });

  it.each(['dataSource', 'connection'])(
    'may have a manager that calls its data source "%s", as TypeORM 1 or 0.3 does',
    (name) => {
      const manager = { [name]: {}, query() {}, transaction() {} };
      expect(() => requireOptions('cancel', { manager }, ['manager'])).not.toThrow();
    },
  );

  it('may be undefined', () => {
    expect(() =>
      requireOptions('callWithDelay', { identifier: undefined, manager: undefined }, [
        'identifier',
        'manager',
      ]),
    ).not.toThrow();
  });
});
