import { Injectable, Module, type OnApplicationBootstrap, type OnModuleInit } from '@nestjs/common';
import pg from 'pg';
import {
  AbstractLogger,
  DataSource,
  type EntityManager,
  type LogLevel,
  type LogMessage,
  type QueryFailedError,
} from 'typeorm';
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest';
import {
  FutureCall,
  FutureCallDataError,
  FutureCallHandlerError,
  FutureCallOptionsError,
  FutureCallService,
  FutureCallTimeError,
  UnknownFutureCallError,
  type Delay,
  type FutureCallContext,
  type ScheduledFutureCall,
  type ScheduleOptions,
} from '../../lib/index.js';
import { bootApp, createTables, type BootedApp } from '../support/app.js';
import { createDatabase, type TestDatabase } from '../support/database.js';
import { until } from '../support/until.js';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
  await createTables(database);
});
beforeEach(() => database.query('truncate future_call, future_call_running, future_call_outcome'));
afterAll(() => database.drop());

/** What the handlers below got, in order; the test waits for it. */
let got: { data: unknown; call: FutureCallContext }[] = [];
let arrived = () => {};
beforeEach(() => {
  got = [];
});
async function next() {
  while (got.length === 0) await new Promise<void>((resolve) => (arrived = resolve));
  return got.shift()!;
}

@FutureCall('remind')
class Remind {
  invoke(data: unknown, call: FutureCallContext) {
    got.push({ data, call });
    arrived();
  }
}

const boot = (more: Parameters<typeof bootApp>[1] = {}) =>
  bootApp(database, { providers: [Remind], ...more });

/** A process that only schedules: what it schedules stays where it is. */
const bootScheduler = (more: Parameters<typeof bootApp>[1] = {}) =>
  boot({ ...more, options: { execute: false, ...more.options } });

const pending = (columns = '*') => database.query(`select ${columns} from future_call order by id`);

describe('scheduling', () => {
  it('by name and by class, with and without an identifier, returns the call as it is stored', async () => {
    const { service } = await bootScheduler();
    const calls = [
      await service.callWithDelay('remind', { n: 1 }, '1h'),
      await service.callWithDelay(Remind, { n: 2 }, { hours: 1 }, { identifier: 'a label' }),
      await service.callAtTime('remind', { n: 3 }, new Date('2099-01-01T09:00:00.123Z'), {}),
      await service.callAtTime(Remind, { n: 4 }, new Date('2099-01-01T09:00:00Z'), { identifier: null }),
    ];
    expect(calls.map(({ name, identifier }) => [name, identifier])).toEqual([
      ['remind', null],
      ['remind', 'a label'],
      ['remind', null],
      ['remind', null],
    ]);
    expect(calls[2]!.dueAt).toEqual(new Date('2099-01-01T09:00:00.123Z'));
    expect(Object.keys(calls[0]!).toSorted((a, b) => a.localeCompare(b))).toEqual([
      'dueAt',
      'id',
      'identifier',
      'name',
    ]);
    const rows = await pending('id, name, identifier, due_at as "dueAt"');
    expect(calls).toEqual(rows);
    expect(await pending('data, attempt, errors')).toEqual(
      [1, 2, 3, 4].map((n) => ({ data: { n }, attempt: 0, errors: null })),
    );
  });

  it('gives a handler the call as it was returned, and as it is stored while it runs', async () => {
    const { service } = await boot();
    // With microseconds, which the column does not keep.
    const scheduled = await service.callWithDelay(Remind, null, 1.2345, { identifier: 'x' });
    const { call } = await next();
    expect({ ...call }).toEqual({ ...scheduled, attempt: 1 });
    expect(scheduled.dueAt.getTime() % 1).toBe(0);

    const later = await service.callWithDelay(Remind, null, '1h');
    expect(await pending(`id, (extract(epoch from due_at) * 1000)::text as ms`)).toEqual([
      { id: later.id, ms: expect.stringMatching(new RegExp(`^${later.dueAt.getTime()}(\\.0+)?$`)) },
    ]);
  });

  it('takes a hundred calls at once on a small pool', async () => {
    const { service } = await bootScheduler({ typeorm: { extra: { max: 2 } } });
    const calls = await Promise.all(
      Array.from({ length: 100 }, (_, n) => service.callWithDelay(Remind, n, '1h')),
    );
    expect(new Set(calls.map(({ id }) => id)).size).toBe(100);
    expect(await pending('data')).toHaveLength(100);
  });

  it('runs at once what is due at once, or was in the past', async () => {
    const { service } = await boot({ options: { pollInterval: '1h' } });
    const past = new Date('1969-07-20T20:17:40.123Z');
    for (const schedule of [
      () => service.callWithDelay(Remind, 1, 0),
      () => service.callWithDelay(Remind, 1, '0ms'),
      () => service.callAtTime(Remind, 1, new Date()),
      () => service.callAtTime(Remind, 1, past),
      () => service.callAtTime(Remind, 1, new Date('0001-01-01T00:00:00Z')),
    ]) {
      const scheduled = await schedule();
      const { call } = await next();
      expect(call.id).toBe(scheduled.id);
      expect(call.dueAt).toEqual(scheduled.dueAt);
    }
  });

  it('never starts a call early', async () => {
    const early: unknown[] = [];
    @FutureCall('punctual')
    class Punctual {
      constructor(private readonly dataSource: DataSource) {}
      async invoke(_data: unknown, call: FutureCallContext) {
        const [{ now }] = await this.dataSource.query<[{ now: Date }]>('select clock_timestamp() as now');
        if (now < call.dueAt) early.push({ now, dueAt: call.dueAt });
        got.push({ data: null, call });
        arrived();
      }
    }
    const { service } = await boot({ providers: [Punctual] });
    const delays = [0, 0.1, 1, 1.5, 7, 20, 50.7, 100, 300];
    const scheduled = await Promise.all(
      delays.map(async (delay) => {
        const [before] = await database.query<{ now: string }>(
          'select extract(epoch from clock_timestamp()) * 1000 as now',
        );
        const { dueAt } = await service.callWithDelay(Punctual, null, delay);
        return { delay, counted: dueAt.getTime() - Number(before!.now) };
      }),
    );
    // Rounded up to whole milliseconds; what is due at once need not be.
    for (const { delay, counted } of scheduled) {
      expect(counted).toBeGreaterThanOrEqual(delay === 0 ? -1 : delay);
    }
    for (const _ of delays) await next();
    expect(early).toEqual([]);
  });
});

describe('a delay', () => {
  /**
   * PostgreSQL's own clock, standing still: a function that comes before the built-in one on the app's connections.
   * Everything else is as it is.
   */
  const stopClock = (moment: string) =>
    database.query(
      `create or replace function public.clock_timestamp() returns timestamptz stable language sql as $$ select '${moment}'::timestamptz $$`,
    );
  const bootIn = (timeZone: string) =>
    bootScheduler({
      typeorm: { extra: { options: `-c search_path=public,pg_catalog -c timezone=${timeZone}` } },
    });

  it.each<[string, [from: string, delay: Delay, to: string][]]>([
    [
      'UTC',
      [
        ['2027-01-31T09:00:00Z', { months: 1 }, '2027-02-28T09:00:00Z'],
        ['2028-01-31T09:00:00Z', { months: 1 }, '2028-02-29T09:00:00Z'],
        ['2027-10-31T09:00:00Z', { months: 13 }, '2028-11-30T09:00:00Z'],
        ['2028-02-29T09:00:00Z', { years: 1 }, '2029-02-28T09:00:00Z'],
        ['2028-02-29T09:00:00Z', { years: 4 }, '2032-02-29T09:00:00Z'],
        // Months first, then what has a fixed length.
        ['2027-01-31T09:00:00Z', { months: 1, days: 1 }, '2027-03-01T09:00:00Z'],
        ['2027-01-31T09:00:00Z', { days: 1, months: 1 }, '2027-03-01T09:00:00Z'],
        ['2027-01-31T09:00:00Z', { years: 1, months: 1, weeks: 1, hours: 1.5 }, '2028-03-07T10:30:00Z'],
        // The ms library's year is 365.25 days.
        ['2027-01-01T00:00:00Z', '1y', '2028-01-01T06:00:00Z'],
        ['2027-01-01T00:00:00Z', { years: 1 }, '2028-01-01T00:00:00Z'],
        ['2027-01-01T00:00:00Z', '90m', '2027-01-01T01:30:00Z'],
        ['2027-01-01T00:00:00Z', '2 days', '2027-01-03T00:00:00Z'],
        ['2027-01-01T00:00:00Z', 90_000, '2027-01-01T00:01:30Z'],
        ['2027-01-01T00:00:00Z', { weeks: 0.5 }, '2027-01-04T12:00:00Z'],
        ['2027-01-01T00:00:00Z', { minutes: 1, seconds: 2, milliseconds: 3 }, '2027-01-01T00:01:02.003Z'],
        ['2027-01-01T00:00:00Z', { days: 1, hours: -1 }, '2027-01-01T23:00:00Z'],
        // Rounded up to whole milliseconds, but what has no delay is due at once.
        ['2027-01-01T00:00:00.123456Z', 1, '2027-01-01T00:00:00.125Z'],
        ['2027-01-01T00:00:00.123456Z', 0.1, '2027-01-01T00:00:00.124Z'],
        ['2027-01-01T00:00:00.123456Z', 0, '2027-01-01T00:00:00.123Z'],
        ['2027-01-01T00:00:00.123Z', 1, '2027-01-01T00:00:00.124Z'],
        ['2027-01-01T00:00:00Z', { years: 7_000 }, '9027-01-01T00:00:00Z'],
      ],
    ],
    // Where it is another day than in UTC, a month of that place would end on another one, too.
    ['Asia/Kolkata', [['2027-01-30T20:00:00Z', { months: 1 }, '2027-02-28T20:00:00Z']]],
    ['Pacific/Honolulu', [['2027-03-01T05:00:00Z', { months: 1 }, '2027-04-01T05:00:00Z']]],
    // The clocks change in New York on 14 March 2027, and in Lord Howe by half an hour on 3 October.
    [
      'America/New_York',
      [
        ['2027-03-13T12:00:00Z', { days: 1 }, '2027-03-14T12:00:00Z'],
        ['2027-03-13T12:00:00Z', { days: 2 }, '2027-03-15T12:00:00Z'],
        ['2027-02-20T12:00:00Z', { months: 1 }, '2027-03-20T12:00:00Z'],
        ['2026-03-20T12:00:00Z', { years: 1, months: -1 }, '2027-02-20T12:00:00Z'],
      ],
    ],
    ['Australia/Lord_Howe', [['2027-10-02T15:00:00Z', '1d', '2027-10-03T15:00:00Z']]],
  ])('is counted in UTC by the database (its time zone: %s)', async (timeZone, cases) => {
    const { service } = await bootIn(timeZone);
    for (const [from, delay, to] of cases) {
      await stopClock(from);
      const { id, dueAt } = await service.callWithDelay(Remind, null, delay);
      expect({ from, delay, dueAt }).toEqual({ from, delay, dueAt: new Date(to) });
      expect(await database.query('select due_at from future_call where id = $1', [id])).toEqual([
        { due_at: dueAt },
      ]);
    }
  });

  it('of months is what PostgreSQL makes of it', async () => {
    const { service } = await bootIn('Asia/Kolkata');
    await stopClock('2027-01-30T20:00:00.5Z');
    for (let months = 1; months <= 30; months++) {
      const { dueAt } = await service.callWithDelay(Remind, null, { months, days: months });
      const [row] = await database.query<{ due: Date }>(
        `select ('2027-01-30 20:00:00.5'::timestamp + make_interval(months => $1, days => $1)) at time zone 'UTC' as due`,
        [months],
      );
      expect(dueAt).toEqual(row!.due);
    }
  });
});

describe('a time', () => {
  it('is kept to the millisecond, whatever time zone the database has', async () => {
    const { service } = await bootScheduler({ typeorm: { extra: { options: '-c timezone=Asia/Kolkata' } } });
    for (const text of [
      '0001-01-01T00:00:00.000Z',
      '1582-10-10T00:00:00.001Z',
      '1969-12-31T23:59:59.999Z',
      '1970-01-01T00:00:00.000Z',
      '2026-11-22T10:11:12.345Z',
      '2262-04-11T23:47:16.855Z',
      '9999-12-31T23:59:59.999Z',
    ]) {
      const { id, dueAt } = await service.callAtTime(Remind, null, new Date(text));
      expect(dueAt.toISOString()).toBe(text);
      const [row] = await database.query(
        `select to_char(due_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as due from future_call where id = $1`,
        [id],
      );
      expect(row).toEqual({ due: text });
    }
  });
});

describe('data', () => {
  class Point {
    constructor(
      readonly x: number,
      readonly y: number,
    ) {}
    toString() {
      return `${this.x}/${this.y}`;
    }
  }
  const date = new Date('2027-01-01T09:00:00.123Z');
  const nested = JSON.parse(`${'['.repeat(1_000)}${']'.repeat(1_000)}`) as unknown;

  const table: [what: string, sent: unknown, received?: unknown][] = [
    ['null', null],
    ['undefined', undefined, null],
    ['false', false],
    ['zero', 0],
    ['minus zero', -0, 0],
    ['a number', -1.5e-7],
    ['the largest number', Number.MAX_VALUE],
    ['the smallest number', Number.MIN_VALUE],
    ['the largest safe integer', Number.MAX_SAFE_INTEGER],
    ['empty text', ''],
    ['text', 'hällo "wörld" \\ \n\t\u0001 \u2028 😀 \ufffd'],
    ['text that looks like JSON', '{"a":1}'],
    ['the text null', 'null'],
    ['an empty array', []],
    ['an array', [1, 'two', null, [3]]],
    ['an array with holes', [1, undefined, () => 1, Symbol('s')], [1, null, null, null]],
    ['an empty object', {}],
    ['an object', { b: { c: [1] }, a: null, '': 1, 'k e y': 2, constructor: 'x' }],
    [
      'an object with undefined, a function and a symbol',
      { a: undefined, b: () => 1, c: Symbol('s'), d: 1 },
      { d: 1 },
    ],
    ['a key named __proto__', JSON.parse('{"__proto__": 1}'), JSON.parse('{"__proto__": 1}')],
    ['a Date', date, date.toISOString()],
    ['a Date inside', { at: date }, { at: date.toISOString() }],
    ['an instance of a class', new Point(1, 2), { x: 1, y: 2 }],
    ['an object without a prototype', Object.assign(Object.create(null) as object, { a: 1 }), { a: 1 }],
    ['what toJSON() returns', { toJSON: () => ({ a: 1 }) }, { a: 1 }],
    ['what toJSON() does not return', { toJSON: () => undefined }, null],
    ['boxed primitives', [Object(1), Object('a'), Object(true)], [1, 'a', true]],
    ['the same object twice', [date, date], [date.toISOString(), date.toISOString()]],
    ['a megabyte', 'ä'.repeat(500_000)],
    ['deep nesting', nested],
    ['many keys', Object.fromEntries(Array.from({ length: 5_000 }, (_, i) => [`key ${i}`, i]))],
  ];

  it('arrives as JSON carries it', async () => {
    const { service } = await boot();
    for (const [what, sent, received = sent] of table) {
      await service.callWithDelay('remind', sent, 0);
      expect([what, (await next()).data]).toEqual([what, received]);
    }
  });

  it('is null in the table when there is none', async () => {
    const { service } = await bootScheduler();
    for (const nothing of [null, undefined, { toJSON: () => null }]) {
      await service.callWithDelay(Remind, nothing, '1h');
    }
    expect(await pending('data is null as nothing')).toEqual([1, 2, 3].map(() => ({ nothing: true })));
  });

  it('says where its own toJSON() throws, and keeps what that was', async () => {
    const { service } = await bootScheduler();
    const own = new Error('mine');
    const data = {
      at: {
        toJSON() {
          throw own;
        },
      },
    };
    await expect(service.callWithDelay('remind', data, 0)).rejects.toMatchObject({
      name: 'FutureCallDataError',
      message: 'data.at cannot be written as JSON: its toJSON() throws (mine).',
      cause: own,
    });
  });
});

describe('misuse', () => {
  it('is refused with an error of ours, before anything is written', async () => {
    const { service } = await bootScheduler();
    const cases: [attempt: () => Promise<unknown>, type: unknown, message: RegExp][] = [
      [() => service.callWithDelay(Remind, null, -1), FutureCallTimeError, /cannot be negative/],
      [() => service.callWithDelay(Remind, null, null as never), FutureCallTimeError, /not a length of time/],
      [() => service.callAtTime(Remind, null, '2027-01-01' as never), FutureCallTimeError, /must be a Date/],
      [() => service.callWithDelay('remind', { a: [NaN] }, 0), FutureCallDataError, /^data\.a\[0\] is NaN/],
      [
        () => service.callWithDelay('', null, 0),
        FutureCallOptionsError,
        /its class or its name.*"" is empty/,
      ],
      [
        () => service.callWithDelay(undefined as never, null, 0),
        FutureCallOptionsError,
        /undefined is not a string/,
      ],
      [() => service.callWithDelay(new Remind() as never, null, 0), FutureCallOptionsError, /Pass the class/],
      [
        () => service.callWithDelay(Remind, null, 0, { identifier: 42 as never }),
        FutureCallOptionsError,
        /The identifier 42 is not a string/,
      ],
      [
        () => service.callWithDelay(Remind, null, 0, { identifer: 'x' } as never),
        FutureCallOptionsError,
        /callWithDelay\(\) has no option "identifer"\. Its options are identifier, manager/,
      ],
      [() => service.callAtTime(Remind, null, new Date(), null as never), FutureCallOptionsError, /not null/],
      [() => service.cancel(undefined as never), FutureCallOptionsError, /The identifier undefined is not a/],
      [() => service.cancel(null as never), FutureCallOptionsError, /The identifier null is not a string/],
      [() => service.cancel('', {}), FutureCallOptionsError, /The identifier "" is empty/],
      [
        () => service.cancel('x', { identifier: 'y' } as never),
        FutureCallOptionsError,
        /cancel\(\) has no option "identifier"\. Its options are manager/,
      ],
    ];
    for (const [attempt, type, message] of cases) {
      const error = await attempt().catch((thrown: unknown) => thrown);
      expect(error).toBeInstanceOf(type);
      expect((error as Error).message).toMatch(message);
    }
    expect(await pending()).toEqual([]);
  });
});

describe('names and identifiers', () => {
  it('an identifier is any text of 1 to 255 characters', async () => {
    const { service } = await bootScheduler();
    await service.callWithDelay(Remind, null, '1h', { identifier: 'other' });
    await service.callWithDelay(Remind, null, '1h');
    for (const identifier of ['x', ' ', 'x'.repeat(255), '😀'.repeat(255), `"'; --`, 'null', '%', '\\']) {
      expect(await service.callWithDelay(Remind, null, '1h', { identifier })).toMatchObject({ identifier });
      expect(await service.cancel(identifier)).toBe(1);
    }
    expect(await pending('identifier')).toEqual([{ identifier: 'other' }, { identifier: null }]);
  });

  it('a long name travels: it is scheduled, announced and run', async () => {
    const name = '😀'.repeat(255);
    @FutureCall(name)
    class Long extends Remind {}
    const { service, dataSource } = await boot({ providers: [Long], options: { pollInterval: '1h' } });
    await dataSource.transaction((manager) => service.callWithDelay(Long, 1, 0, { manager }));
    expect((await next()).call.name).toBe(name);
  });
});

describe('options of a call', () => {
  it('a data source or a query runner as the manager: refused, with the cure', async () => {
    const { service, dataSource } = await bootScheduler();
    const runner = dataSource.createQueryRunner();
    for (const manager of [dataSource, runner] as unknown as EntityManager[]) {
      await expect(service.callWithDelay(Remind, null, 0, { manager })).rejects.toThrow(
        /manager must be the EntityManager of your transaction.*dataSource\.transaction/,
      );
    }
    await runner.release();
  });

  it('undefined is as not given', async () => {
    const { service } = await bootScheduler();
    const options = { identifier: undefined, manager: undefined } as unknown as ScheduleOptions;
    expect(await service.callWithDelay(Remind, null, '1h', options)).toMatchObject({ identifier: null });
    expect(await service.cancel('x', { manager: options.manager! })).toBe(0);
  });
});

describe('cancel', () => {
  it('removes every pending call of the identifier, of all handlers, and says how many', async () => {
    const { service } = await bootScheduler();
    for (const name of ['remind', 'another']) {
      for (const identifier of ['a', 'b', undefined]) {
        await service.callWithDelay(name, null, '1h', identifier === undefined ? {} : { identifier });
      }
    }
    expect(await service.cancel('a')).toBe(2);
    expect(await service.cancel('a')).toBe(0);
    expect(await service.cancel('nobody')).toBe(0);
    expect(await pending('name, identifier')).toEqual([
      { name: 'remind', identifier: 'b' },
      { name: 'remind', identifier: null },
      { name: 'another', identifier: 'b' },
      { name: 'another', identifier: null },
    ]);
  });

  it('does not touch a call that runs, nor its signal', async () => {
    let finish!: () => void;
    const finished = new Promise<void>((resolve) => (finish = resolve));
    const ended = new Promise<boolean>((resolve) => {
      end = resolve;
    });
    const { service } = await boot({ providers: [Hold] });
    release = finished;
    await service.callWithDelay(Hold, null, 0, { identifier: 'x' });
    await next();
    await service.callWithDelay(Hold, null, '1h', { identifier: 'x' });
    expect(await service.cancel('x')).toBe(1);
    expect(await database.query('select name, attempt from future_call_running')).toEqual([
      { name: 'hold', attempt: 1 },
    ]);
    finish();
    expect(await ended).toBe(false);
    await until(
      async () => (await database.query('select from future_call_running')).length === 0,
      'it ended',
    );
    expect(await database.query('select from future_call_outcome')).toEqual([]);
  });

  let release: Promise<void>;
  let end: (aborted: boolean) => void;
  @FutureCall('hold')
  class Hold {
    async invoke(data: unknown, call: FutureCallContext) {
      const { signal } = call;
      got.push({ data, call });
      arrived();
      await release;
      end(signal.aborted);
    }
  }
});

describe('a name without a handler in this process', () => {
  it('is refused, with the names that are known', async () => {
    @FutureCall('another')
    class Another {
      invoke() {}
    }
    const { service } = await boot({ providers: [Remind, Another] });
    const error = await service.callWithDelay('remnid', null, 0).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(UnknownFutureCallError);
    expect((error as Error).message).toMatch(
      /No handler for "remnid".*@FutureCall\('remnid'\).*providers.*unknownNames: 'accept'.*Known here: "another", "remind"\./,
    );
    expect(await pending()).toEqual([]);
  });

  it('is refused where none is known', async () => {
    const { service } = await boot({ providers: [] });
    await expect(service.callWithDelay('remind', null, 0)).rejects.toThrow(/Known here: none\./);
    await expect(service.callAtTime('remind', null, new Date())).rejects.toThrow(UnknownFutureCallError);
  });

  it.each<[string, NonNullable<Parameters<typeof bootApp>[1]>['options']]>([
    ["with unknownNames: 'accept'", { unknownNames: 'accept' }],
    ['where nothing is executed', { execute: false }],
    ['where nothing is executed, whatever unknownNames says', { execute: false, unknownNames: 'refuse' }],
  ])('is accepted %s', async (_what, options) => {
    const { service } = await boot({ providers: [], options: options! });
    await service.callWithDelay('remind', 1, 0);
    await service.callWithDelay(Remind, 2, 0);
    expect(await pending('name, data')).toEqual([
      { name: 'remind', data: 1 },
      { name: 'remind', data: 2 },
    ]);
    await boot();
    expect([(await next()).data, (await next()).data]).toEqual([1, 2]);
  });

  it('a class without a mark is refused everywhere', async () => {
    class Bare {
      invoke() {}
    }
    for (const { service } of [await boot(), await bootScheduler()]) {
      const error = await service.callWithDelay(Bare, null, 0).catch((thrown: unknown) => thrown);
      expect(error).toBeInstanceOf(FutureCallHandlerError);
      expect((error as Error).message).toMatch(/function Bare is no handler: it is not marked @FutureCall/);
    }
  });
});

describe('while the app boots', () => {
  let fresh: TestDatabase;
  // Its own database each: the tables are not there yet.
  beforeEach(async () => {
    fresh = await createDatabase();
    return () => fresh.drop();
  });
  const scheduled: ScheduledFutureCall[] = [];
  beforeEach(() => scheduled.splice(0));

  @Injectable()
  class Early implements OnModuleInit, OnApplicationBootstrap {
    constructor(readonly futureCalls: FutureCallService) {}
    async onModuleInit() {
      scheduled.push(await this.futureCalls.callWithDelay(Remind, 'init', 0, { identifier: 'x' }));
      scheduled.push(await this.futureCalls.callWithDelay('remind', 'cancelled', '1h', { identifier: 'y' }));
      if ((await this.futureCalls.cancel('y')) !== 1) throw new Error('It was not cancelled.');
    }
    async onApplicationBootstrap() {
      scheduled.push(await this.futureCalls.callWithDelay(Remind, 'bootstrap', 0));
    }
  }
  @Module({ providers: [Early] })
  class EarlyModule {}

  const where: [string, Parameters<typeof bootApp>[1]][] = [
    ['a provider of the root module', { providers: [Remind, Early] }],
    ['a provider of another module', { providers: [Remind], imports: [EarlyModule] }],
  ];

  it.each(where)('%s schedules and cancels', async (_what, options) => {
    await bootApp(fresh, options);
    expect([(await next()).data, (await next()).data]).toEqual(['init', 'bootstrap']);
    expect(scheduled).toHaveLength(3);
  });

  it.each(where)('%s schedules where nothing is executed', async (_what, options) => {
    await bootApp(fresh, { ...options, options: { execute: false } });
    expect(await fresh.query('select data from future_call order by id')).toEqual([
      { data: 'init' },
      { data: 'bootstrap' },
    ]);
  });

  it('a provider schedules in a transaction on the only connection of the pool', async () => {
    @Injectable()
    class InTransaction implements OnModuleInit {
      constructor(
        readonly futureCalls: FutureCallService,
        readonly dataSource: DataSource,
      ) {}
      async onModuleInit() {
        await this.dataSource.transaction(async (manager) => {
          await manager.query('create table signups (email text)');
          await this.futureCalls.callWithDelay(Remind, 'welcome', 0, { manager });
        });
      }
    }
    await bootApp(fresh, { providers: [Remind, InTransaction], typeorm: { poolSize: 1 } });
    expect((await next()).data).toBe('welcome');
  });

  it('a constructor and a factory schedule, and no handler is overlooked for that', async () => {
    @FutureCall('made')
    class Made extends Remind {}
    @Injectable()
    class Hasty {
      readonly scheduled: Promise<unknown>;
      constructor(futureCalls: FutureCallService) {
        this.scheduled = futureCalls.callWithDelay(Remind, 'constructor', 0);
      }
    }
    await bootApp(fresh, {
      providers: [
        Hasty,
        Remind,
        {
          provide: 'FACTORY',
          inject: [FutureCallService],
          useFactory: (futureCalls: FutureCallService) => futureCalls.callWithDelay(Remind, 'factory', 0),
        },
        // Made when it has been scheduled twice, and nobody knows its class before.
        { provide: 'MADE', inject: ['FACTORY', Hasty], useFactory: () => new Made() },
      ],
    }).then(({ app, service }) =>
      Promise.all([app.get(Hasty).scheduled, service.callWithDelay(Made, 'made', 0)]),
    );
    const data = [(await next()).data, (await next()).data, (await next()).data];
    expect(new Set(data)).toEqual(new Set(['constructor', 'factory', 'made']));
  });
});

describe('execute: false', () => {
  it('schedules and cancels, opens no session and runs nothing', async () => {
    const { service, close } = await bootScheduler();
    await service.callWithDelay(Remind, 1, 0);
    await service.callWithDelay(Remind, 2, '1h', { identifier: 'x' });
    expect(await service.cancel('x')).toBe(1);
    const ofTheEngine = () =>
      database.query(
        `select application_name from pg_stat_activity where datname = current_database() and application_name like 'future-call%'`,
      );
    expect(await database.query('select from future_call_instance')).toEqual([]);
    expect(await ofTheEngine()).toEqual([]);
    await close();
    expect(await pending('data')).toEqual([{ data: 1 }]);
    expect(got).toEqual([]);

    // Another process runs it, and does have a session.
    await boot();
    expect((await next()).data).toBe(1);
    expect(await ofTheEngine()).toHaveLength(1);
  });
});

describe('TypeORM', () => {
  const works = async ({ service }: BootedApp) => {
    await service.callWithDelay(Remind, 1, 0);
    const later = await service.callAtTime(Remind, 2, new Date('2099-01-01T00:00:00Z'), { identifier: 'x' });
    expect(later.id).toMatch(/^\d+$/);
    expect(later.dueAt).toEqual(new Date('2099-01-01T00:00:00Z'));
    expect(await service.cancel('x')).toBe(1);
    expect(await service.cancel('x')).toBe(0);
    expect((await next()).data).toBe(1);
  };

  it('may parse numbers its own way', async () => {
    await works(await boot({ typeorm: { parseInt8: true } }));
  });

  it.each([true, false])('prepares our statements: %s', async (preparedStatements) => {
    const booted = await boot({ options: { preparedStatements }, typeorm: { poolSize: 1 } });
    await works(booted);
    const names = await booted.dataSource.query<unknown[]>(
      `select name from pg_prepared_statements where name like 'future_call%' order by name`,
    );
    expect(names).toHaveLength(preparedStatements ? 3 : 0);
  });

  it.each(['advanced-console', 'simple-console', 'formatted-console'] as const)(
    'may log every query: %s',
    async (logger) => {
      const printed: string[] = [];
      for (const method of ['log', 'info', 'warn', 'error'] as const) {
        vi.spyOn(console, method).mockImplementation((...args) => void printed.push(args.join(' ')));
      }
      onTestFinished(() => void vi.restoreAllMocks());
      await works(await boot({ typeorm: { logging: 'all', logger, maxQueryExecutionTime: 0.001 } }));
      expect(printed.join('\n')).toMatch(/insert.*into.*future_call/is);
    },
  );

  it('may have a logger and subscribers that take a query as the text it is', async () => {
    const logged: string[] = [];
    class TextLogger extends AbstractLogger {
      protected writeLog(_level: LogLevel, messages: LogMessage | LogMessage[]) {
        for (const { message } of [messages].flat()) logged.push(String(message).trim());
      }
      override logQuery(query: string) {
        if (query.startsWith('SELECT')) return;
        logged.push(query.trim());
      }
    }
    const booted = await boot({ typeorm: { logger: new TextLogger('all') } });
    booted.dataSource.subscribers.push({
      beforeQuery: ({ query }: { query: string }) => void logged.push(query.toLowerCase()),
      afterQuery: ({ query }: { query: string }) => void logged.push(JSON.stringify(query)),
    });
    await works(booted);
    expect(logged.filter((text) => /insert/i.test(text)).length).toBeGreaterThan(3);
    const failing = booted.dataSource.transaction(async (manager) => {
      await manager.query('select 1 / 0').catch(() => {});
      await booted.service.callWithDelay(Remind, 1, 0, { manager });
    });
    const error = (await failing.catch((thrown: unknown) => thrown)) as QueryFailedError;
    expect(error.query.trim()).toMatch(/insert into/);
  });

  it("does not care how the app's pg parses values", async () => {
    const { getTypeParser } = pg.types;
    const before = new Map<number, ReturnType<typeof getTypeParser>>();
    onTestFinished(() => before.forEach((parser, oid) => pg.types.setTypeParser(oid, parser as never)));
    const { INT8, TIMESTAMPTZ, JSONB, INT4 } = pg.types.builtins;
    const refuse = () => {
      throw new Error('This parser takes nothing.');
    };
    const parsers = [
      [INT8, BigInt],
      [TIMESTAMPTZ, (text: string) => ({ moment: text })],
      [JSONB, refuse],
      [INT4, refuse],
    ] as const;
    const booted = await boot();
    for (const [oid, parser] of parsers) {
      before.set(oid, getTypeParser(oid));
      pg.types.setTypeParser(oid, parser as never);
    }
    await works(booted);
  });
});
