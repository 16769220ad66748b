import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { FutureCall, FutureCallOptionsError, type Delay, type FutureCallHandler } from '../../lib/index.js';
import { bootApp, createTables } from '../support/app.js';
import { createDatabase, type TestDatabase } from '../support/database.js';
import { notificationsOf } from '../support/notifications.js';
import { until } from '../support/until.js';

@FutureCall('greet')
class Greet implements FutureCallHandler<{ name: string }> {
  invoke(_data: { name: string }) {}
}

@FutureCall('tick')
class Tick implements FutureCallHandler {
  invoke() {}
}

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
  await createTables(database);
});
beforeEach(() => database.query('truncate future_call'));
afterAll(() => database.drop());

const boot = (options = {}) =>
  bootApp(database, { providers: [Greet, Tick], options: { execute: false, ...options } });

describe('callMany', () => {
  it('schedules calls of several handlers, and answers in the order given', async () => {
    const { service } = await boot();
    const time = new Date('2100-01-01T00:00:00Z');
    const calls = await service.callMany([
      { handler: Greet, data: { name: 'a' }, delay: '1h', identifier: 'x' },
      { handler: Tick, time },
      { handler: 'greet', data: { name: 'c' }, delay: { months: 1 } },
    ]);
    const rows = await database.query(
      'select id, name, identifier, due_at as "dueAt", data from future_call order by id',
    );
    expect(rows).toEqual(
      calls.map((call, i) => ({ ...call, data: [{ name: 'a' }, null, { name: 'c' }][i] })),
    );
    expect(calls[1]!.dueAt).toEqual(time);
    expect(await service.callMany([])).toEqual([]);
  });

  it('takes more than one statement holds, in order, with one notification', async () => {
    const runner = await boot({ execute: true, pollInterval: '1h' });
    const count = 12_000;
    const given = Array.from({ length: count }, (_, n) => ({
      handler: Greet,
      data: { name: String(n) },
      delay: 60_000 + ((n * 7919) % count),
    }));
    const payloads = await notificationsOf(database, () => runner.service.callMany(given));
    expect(payloads).toHaveLength(1);
    const rows = await database.query<{ name: string; due: string }>(
      `select data->>'name' as name, extract(epoch from due_at) * 1000 as due from future_call order by id`,
    );
    expect(rows.map(({ name }) => name)).toEqual(given.map(({ data }) => data.name));
    const earliest = rows.reduce((least, { due }) => Math.min(least, Number(due)), Infinity);
    expect(payloads).toEqual([`${earliest} greet`]);
  });

  it('notifies once for several handlers, and wakes them all', async () => {
    const runner = await boot({ execute: true, pollInterval: '1h' });
    const payloads = await notificationsOf(database, () =>
      runner.service.callMany([
        { handler: Greet, data: { name: 'a' }, delay: 0 },
        { handler: Tick, delay: 100 },
      ]),
    );
    expect(payloads).toEqual([expect.stringMatching(/^\d+ $/)]);
    await until(async () => (await database.query('select from future_call')).length === 0, 'both have run');
  });

  it('counts delays as scheduling one by one does: calendar units in UTC, and never early', async () => {
    // PostgreSQL's clock stands still: this function comes before the built-in one.
    await database.query(`create or replace function public.clock_timestamp() returns timestamptz stable language sql
      as $$ select '2027-01-30 20:00:00.123456Z'::timestamptz $$`);
    const { service } = await bootApp(database, {
      providers: [Tick],
      options: { execute: false },
      // There it is the 31st already, and a month from then would be another moment.
      typeorm: { extra: { options: '-c search_path=public,pg_catalog -c timezone=Asia/Kolkata' } },
    });
    const delays: Delay[] = [0, 1, '90m', { months: 1 }, { years: 1, months: 1, days: 1 }];
    const calls = await service.callMany(delays.map((delay) => ({ handler: Tick, delay })));
    expect(calls.map(({ dueAt }) => dueAt.toISOString())).toEqual([
      '2027-01-30T20:00:00.123Z',
      '2027-01-30T20:00:00.125Z',
      '2027-01-30T21:30:00.124Z',
      '2027-02-28T20:00:00.124Z',
      '2028-03-01T20:00:00.124Z',
    ]);
    await database.query('drop function public.clock_timestamp');
  });

  it('notifies in a transaction, however far off the calls are: it may commit late', async () => {
    const { service, dataSource } = await boot({ execute: true });
    const payloads = await notificationsOf(database, () =>
      dataSource.transaction((manager) =>
        service.callMany(
          [
            { handler: Tick, delay: '1 day' },
            { handler: Tick, delay: '2 days' },
          ],
          { manager },
        ),
      ),
    );
    expect(payloads).toEqual([expect.stringMatching(/^\d+ tick$/)]);
  });

  it('schedules all or none, also with the manager of a transaction', async () => {
    const { service, dataSource } = await boot();
    await expect(
      dataSource.transaction(async (manager) => {
        await service.callMany([{ handler: Tick, delay: 0 }], { manager });
        await service.callMany(
          Array.from({ length: 6_000 }, () => ({ handler: Tick, delay: 0 })),
          { manager },
        );
        throw new Error('roll back');
      }),
    ).rejects.toThrow('roll back');
    expect(await database.query('select from future_call')).toEqual([]);
  });

  it('says which call is wrong, and schedules none', async () => {
    const { service } = await boot();
    const good = { handler: Tick, delay: 0 };
    const refused = (call: object, message: string | RegExp | { message: string }) =>
      expect(service.callMany([good, call as typeof good])).rejects.toThrow(message);
    await refused({ handler: Tick }, 'calls[1]: The call has neither a delay nor a time: give it one');
    await refused(
      { handler: Tick, delay: 5, time: new Date(0) },
      'calls[1]: The call has both a delay (5) and a time (1970-01-01T00:00:00.000Z)',
    );
    await refused({ handler: Tick, delay: 'soon' }, 'calls[1]: delay: "soon" is not a length of time');
    // What most loggers print of an error.
    await refused(
      { handler: Tick, delay: null },
      expect.objectContaining({
        stack: expect.stringMatching(
          /^FutureCallTimeError: calls\[1\]: delay: null is not .*\n +at /,
        ) as string,
      }),
    );
    await refused({ handler: Tick, delay: 0, when: 1 }, 'calls[1]: A call has no option "when"');
    await refused({ handler: Tick, delay: 0, data: 1n }, 'calls[1]: data is the bigint 1n');
    await refused({ handler: '', delay: 0 }, /^calls\[1\]: The handler of a call/);
    expect(await database.query('select from future_call')).toEqual([]);
  });

  it('refuses what is no array, and options that are none', async () => {
    const { service } = await boot();
    for (const calls of [undefined, null, 5, 'tick', {}, new Set(), Tick] as never[]) {
      await expect(service.callMany(calls)).rejects.toThrow(FutureCallOptionsError);
      await expect(service.callMany(calls)).rejects.toThrow(/callMany\(\) takes an array of calls, not /);
    }
    for (const call of [undefined, null, 5, 'tick', [], Tick] as never[]) {
      await expect(service.callMany([call])).rejects.toThrow(FutureCallOptionsError);
      await expect(service.callMany([call])).rejects.toThrow(
        /^calls\[0\]: A call takes an object of options, not /,
      );
    }
    // A hole is none, and no row of nulls.
    await expect(service.callMany(Object.assign([], { length: 2 }))).rejects.toThrow(
      /^calls\[0\]: A call takes an object/,
    );
    const calls = [{ handler: Tick, delay: 0 }];
    for (const [options, message] of [
      [null, /callMany\(\) takes an object of options, such as { manager }, not null/],
      [{ identifier: 'x' }, /callMany\(\) has no option "identifier"\. Its options are manager/],
      [{ manager: {} }, /manager must be the EntityManager of your transaction/],
    ] as [never, RegExp][]) {
      await expect(service.callMany(calls, options)).rejects.toThrow(FutureCallOptionsError);
      await expect(service.callMany(calls, options)).rejects.toThrow(message);
    }
    expect(await database.query('select from future_call')).toEqual([]);
  });
});
