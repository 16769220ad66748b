import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { FutureCall, type FutureCallHandler } from '../../lib/index.js';
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
    const refused = (call: object, message: string | RegExp) =>
      expect(service.callMany([good, call as typeof good])).rejects.toThrow(message);
    await refused({ handler: Tick }, 'calls[1]: A call has either a delay or a time.');
    await refused({ handler: Tick, delay: 'soon' }, 'calls[1]: "soon" is not a length of time');
    await refused({ handler: Tick, delay: 0, when: 1 }, 'calls[1]: A call has no option "when"');
    await refused({ handler: Tick, delay: 0, data: 1n }, 'calls[1]: data is the bigint 1n');
    await refused({ handler: '', delay: 0 }, /^calls\[1\]: The handler of a call/);
    expect(await database.query('select from future_call')).toEqual([]);
  });
});
