import pg from 'pg';
import type { DataSource } from 'typeorm';
import { beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import {
  FutureCall,
  FutureCallSessionError,
  type FutureCallContext,
  type FutureCallHandler,
  type FutureCallModuleOptions,
} from '../../lib/index.js';
import { bootApp } from '../support/app.js';
import { createDatabase, type TestDatabase } from '../support/database.js';
import { LogLines } from '../support/log-lines.js';
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
        `and advisory locks do not survive one that pools transactions; one that pools sessions looks the same from here. ` +
          `Set sessionUrl to a connection string that leads to PostgreSQL directly, and preparedStatements: false unless the pooler supports them: ` +
          `FutureCallModule.forRoot({ sessionUrl: 'postgres://…', preparedStatements: false }).`,
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

  it('a process that uses prepared statements through the pooler is warned at boot, whether it runs calls or not', async () => {
    const warnings = async (options: FutureCallModuleOptions, url = pooled) => {
      const logger = new LogLines();
      const app = await bootApp(database, { typeorm: { url }, options, logger });
      await app.close();
      return logger.warnings;
    };
    const warning = expect.stringMatching(
      /^The data source leads through a pooler such as PgBouncer \(backend \d+ answered, -?\d+ was announced\), and preparedStatements is on\. Set preparedStatements: false, unless /,
    );
    for (const options of [
      { execute: false },
      { execute: 'manual' },
      { execute: true, sessionUrl: database.url },
    ] as const) {
      expect(await warnings(options)).toEqual([warning]);
      expect(await warnings({ ...options, preparedStatements: false })).toEqual([]);
      expect(await warnings(options, database.url)).toEqual([]);
    }
  });

  it('two apps with tables of their own and prepared statements share backends, and no call lands in the table of the other', async () => {
    const apps = await Promise.all(
      ['one_', 'two_'].map(async (entityPrefix) => {
        const { service } = await bootApp(database, {
          typeorm: { url: pooled, poolSize: 8, entityPrefix },
          options: { execute: false },
        });
        return { entityPrefix, service };
      }),
    );
    let scheduled = 0;
    for (let round = 0; round < 20; round++) {
      const results = await Promise.allSettled(
        apps.flatMap(({ entityPrefix, service }) =>
          Array.from({ length: 20 }, () => service.callWithDelay('note', entityPrefix, '1h')),
        ),
      );
      // This pooler knows nothing of prepared statements: one that another client has prepared, or has not.
      const failed = results.flatMap((result) =>
        result.status === 'rejected' ? [(result.reason as { code: string }).code] : [],
      );
      expect(failed.filter((code) => !['26000', '42P05'].includes(code))).toEqual([]);
      scheduled += results.length - failed.length;
    }
    const landed = await Promise.all(
      apps.map(({ entityPrefix }) =>
        database.query<{ data: string; count: number }>(
          `select data, count(*)::int from "${entityPrefix}future_call" group by data`,
        ),
      ),
    );
    expect(landed.map((groups) => groups.map(({ data }) => data))).toEqual([['one_'], ['two_']]);
    expect(landed.flat().reduce((sum, { count }) => sum + count, 0)).toBe(scheduled);
  });
});
