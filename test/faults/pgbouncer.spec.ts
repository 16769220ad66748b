import pg from 'pg';
import type { DataSource } from 'typeorm';
import { beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import {
  FutureCall,
  FutureCallSessionError,
  type FutureCallContext,
  type FutureCallHandler,
} from '../../lib/index.js';
import { bootApp } from '../support/app.js';
import { createDatabase, type TestDatabase } from '../support/database.js';
import { until } from '../support/until.js';
import { PGBOUNCER, startPgBouncer } from './support/pgbouncer.js';

/** Ids of calls, as often as they started. */
let started: string[];

@FutureCall('note')
class Note implements FutureCallHandler {
  invoke(_data: unknown, call: FutureCallContext) {
    started.push(call.id);
  }
}

let database: TestDatabase;
let pooled: string;
beforeEach(async () => {
  started = [];
  database = await createDatabase();
  onTestFinished(() => database.drop());
  // Ends before the database is dropped.
  pooled = await startPgBouncer(database.url);
});

const untilStarted = (count: number) =>
  until(async () => started.length >= count, `${count} calls have started`);

/** Other clients of the pooler, in transactions of their own all the time: nobody gets the same backend twice. */
async function load(): Promise<void> {
  let isOver = false;
  const clients = await Promise.all(
    Array.from({ length: 10 }, async () => {
      const client = new pg.Client({ connectionString: pooled });
      await client.connect();
      return client;
    }),
  );
  const busy = clients.map(async (client) => {
    while (!isOver) await client.query('begin; select pg_sleep(0.005); commit');
    await client.end();
  });
  onTestFinished(async () => {
    isOver = true;
    await Promise.all(busy);
  });
}

/** Which backends served so many statements of an app. */
async function backendsOf(dataSource: DataSource, statements: number): Promise<Set<number>> {
  const rows = await Promise.all(
    Array.from({ length: statements }, () =>
      dataSource.query<[{ pid: number }]>('select pg_backend_pid() as pid'),
    ),
  );
  return new Set(rows.map(([{ pid }]) => pid));
}

describe.skipIf(PGBOUNCER === undefined)('Behind PgBouncer in transaction mode (package pgbouncer)', () => {
  it.each([
    ['idle', async () => {}],
    ['under load', load],
  ])(
    'an app that would run calls through the pooler is refused at boot, and told to set sessionUrl (%s)',
    async (_, surroundings) => {
      await surroundings();
      const refused = bootApp(database, { typeorm: { url: pooled }, providers: [Note] });
      await expect(refused).rejects.toThrow(FutureCallSessionError);
      await expect(refused).rejects.toThrow(
        `Set sessionUrl to a connection string that leads to PostgreSQL directly: FutureCallModule.forRoot({ sessionUrl: 'postgres://…' })`,
      );
      expect(await database.query('select from future_call_instance')).toEqual([]);
    },
  );

  it.each([
    ['idle', async () => {}],
    ['under load', load],
  ])(
    'with a direct sessionUrl and without prepared statements everything else goes through the pooler (%s)',
    async (_, surroundings) => {
      await surroundings();
      const { service, dataSource, close } = await bootApp(database, {
        typeorm: { url: pooled, poolSize: 8 },
        // Found by notification, or not within this test.
        options: { sessionUrl: database.url, preparedStatements: false, pollInterval: '10m' },
        providers: [Note],
      });

      const calls = await Promise.all(
        Array.from({ length: 100 }, (__, i) => service.callWithDelay(Note, null, i % 2 === 0 ? 0 : 50)),
      );
      calls.push(
        ...(await service.callMany(Array.from({ length: 100 }, () => ({ handler: Note, delay: 0 })))),
      );
      await dataSource.transaction(async (manager) => {
        calls.push(await service.callWithDelay(Note, null, 0, { manager }));
      });
      const rolledBack = dataSource.transaction(async (manager) => {
        await service.callWithDelay(Note, null, 0, { manager });
        throw new Error('rolled back');
      });
      await expect(rolledBack).rejects.toThrow('rolled back');
      await Promise.all(
        Array.from({ length: 20 }, () => service.callWithDelay(Note, null, '1h', { identifier: 'later' })),
      );
      expect(await service.cancel('later')).toBe(20);

      await untilStarted(calls.length);
      await close();
      expect(started.toSorted()).toEqual(calls.map(({ id }) => id).toSorted());
      expect(await database.query('select from future_call')).toEqual([]);
      expect(await database.query('select from future_call_outcome')).toEqual([]);
    },
  );

  it('a process that runs no calls schedules and cancels through the pooler, without a sessionUrl', async () => {
    await load();
    const runner = await bootApp(database, { options: { pollInterval: '10m' }, providers: [Note] });
    const { service, dataSource } = await bootApp(database, {
      typeorm: { url: pooled },
      options: { execute: false, preparedStatements: false },
    });
    // What follows would prove little on one backend.
    expect((await backendsOf(dataSource, 50)).size).toBeGreaterThan(1);
    const calls = await Promise.all(Array.from({ length: 50 }, () => service.callWithDelay('note', null, 0)));
    await service.callWithDelay('note', null, '1h', { identifier: 'later' });
    expect(await service.cancel('later')).toBe(1);
    await untilStarted(calls.length);
    await runner.close();
    expect(started.toSorted()).toEqual(calls.map(({ id }) => id).toSorted());
  });
});
