import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { FutureCall, type FutureCallHandler } from '../../lib/index.js';
import { bootApp, createTables } from '../support/app.js';
import { createDatabase, type TestDatabase } from '../support/database.js';
import { notificationsOf } from '../support/notifications.js';
import { countStatements, countsStatements } from '../support/statements.js';
import { until } from '../support/until.js';

let database: TestDatabase;
let isCounted: boolean;
beforeAll(async () => {
  database = await createDatabase();
  await createTables(database);
  isCounted = await countsStatements(database);
});
beforeEach(({ skip }) => {
  skip(!isCounted, 'the server was started without pg_stat_statements');
  return database.query('truncate future_call');
});
afterAll(() => database.drop());

function handlers(count: number, invoke: (name: string) => unknown = () => undefined, options = {}) {
  return Array.from({ length: count }, (_, n) => {
    @FutureCall(`handler ${n}`, options)
    class Handler implements FutureCallHandler {
      invoke() {
        return invoke(`handler ${n}`);
      }
    }
    return Handler;
  });
}

const now = async () =>
  (
    await database.query<{ now: number }>(
      '/* test: */ select extract(epoch from clock_timestamp())::float8 * 1000 as now',
    )
  )[0]!.now;

/** Until an instance has looked so many times more: time passes for it too. */
async function afterLooks(count: number, counts: () => Promise<Record<string, number>>) {
  const before = (await counts())['look'] ?? 0;
  await until(async () => ((await counts())['look'] ?? 0) >= before + count, `${count} more looks`);
}

describe('an instance', () => {
  it('that idles makes one statement a look and one a poll, and nothing else', async () => {
    await database.query(
      `insert into future_call (name, due_at) select 'handler ' || n % 100, now() + interval '1 day' from generate_series(1, 2000) n`,
    );
    // Nothing is pruned: that has a rhythm of its own.
    const retention = { completed: true, failed: true, interrupted: true, cancelled: true };
    const options = { pollInterval: 1_000, rescueAfter: 1_000, retention };
    await bootApp(database, { providers: handlers(100), options });
    const began = await now();
    const counts = await countStatements(database);
    await afterLooks(6, counts);
    const { look, claim, ...others } = await counts();
    const elapsed = (await now()) - began;
    expect(others).toEqual({});
    expect(look).toBeLessThanOrEqual(elapsed / 500 + 1);
    expect(claim).toBeGreaterThan(0);
    expect(claim).toBeLessThanOrEqual(elapsed / options.pollInterval + 1);
  });

  it('does not walk over calls that were cancelled, though a held snapshot keeps their rows', async () => {
    let ran = 0;
    const { service } = await bootApp(database, {
      providers: handlers(1, () => ran++),
      options: { pollInterval: '1h' },
    });
    const client = await database.pool.connect();
    try {
      await client.query('begin isolation level repeatable read');
      await client.query('select from future_call');
      // Due before the next poll.
      await database.query(`
        insert into future_call (name, due_at) select 'handler 0', now() + interval '30 min' from generate_series(1, 20000);
        delete from future_call`);
      const run = async () => {
        const before = ran;
        await service.callWithDelay('handler 0', null, 0);
        await until(async () => ran > before, 'it has run');
      };
      await run();
      await countStatements(database);
      for (let n = 0; n < 10; n++) await run();
      const [row] = await database.query<{ blocks: string }>(
        `select sum(shared_blks_hit + shared_blks_read) as blocks from pg_stat_statements
         where dbid = (select oid from pg_database where datname = current_database()) and query like '%with moved as%'`,
      );
      expect(Number(row!.blocks)).toBeLessThan(1_000);
    } finally {
      await client.query('rollback');
      client.release();
    }
  });

  it('claims the calls of fifty handlers with one statement, not with fifty', async () => {
    await database.query(
      `insert into future_call (name, due_at) select 'handler ' || n % 50, now() from generate_series(1, 50) n`,
    );
    const counts = await countStatements(database);
    await bootApp(database, { providers: handlers(50), options: { concurrency: 50 } });
    await until(
      async () => (await database.query('/* test: */ select from future_call')).length === 0,
      'all are claimed',
    );
    expect((await counts())['claim']).toBeLessThanOrEqual(3);
  });

  it('does not spin while a due call is locked', async () => {
    await database.query(`insert into future_call (name, due_at) values ('handler 0', now())`);
    const client = await database.pool.connect();
    try {
      await client.query('/* test: */ begin');
      await client.query('/* test: */ select from future_call for update');
      const began = await now();
      const counts = await countStatements(database);
      await bootApp(database, { providers: handlers(1), options: { rescueAfter: 500, pollInterval: '1h' } });
      await afterLooks(12, counts);
      // It looks again after a second, and then every second.
      const { claim } = await counts();
      expect(claim).toBeLessThanOrEqual((await now()) / 1_000 - began / 1_000 + 1);
      expect(claim).toBeGreaterThan(1);
    } finally {
      await client.query('/* test: */ rollback');
      client.release();
    }
  });

  it('does not spin while due calls have no slot', async () => {
    let open!: () => void;
    const opened = new Promise<void>((resolve) => (open = resolve));
    await database.query(
      `insert into future_call (name, due_at) select 'handler 0', now() from generate_series(1, 100)`,
    );
    const counts = await countStatements(database);
    const { close } = await bootApp(database, {
      providers: handlers(1, () => opened),
      options: { rescueAfter: 500, pollInterval: '1h', concurrency: 2, shutdownTimeout: 0 },
    });
    await afterLooks(4, counts);
    expect((await counts())['claim']).toBeLessThanOrEqual(2);
    open();
    await close();
  });

  it('records the ends of many calls with few statements', async () => {
    await database.query(
      `insert into future_call (name, due_at) select 'handler 0', now() from generate_series(1, 5000)`,
    );
    const counts = await countStatements(database);
    await bootApp(database, { providers: handlers(1) });
    await until(
      async () =>
        (
          await database.query(
            '/* test: */ select from future_call union all select from future_call_running',
          )
        ).length === 0,
      'all have ended',
    );
    const { claim, complete } = await counts();
    expect(claim! + complete!).toBeLessThan(500);
  });
});

describe('a notification', () => {
  it('is sent for a call that is due before the next poll, and for none that is later', async () => {
    const { service } = await bootApp(database, { options: { unknownNames: 'accept', pollInterval: 5_000 } });
    expect(await notificationsOf(database, () => service.callWithDelay('elsewhere', null, '1 day'))).toEqual(
      [],
    );
    const payloads = await notificationsOf(database, () => service.callWithDelay('elsewhere', null, 2_000));
    expect(payloads).toEqual([expect.stringMatching(/^\d+ elsewhere$/)]);
  });

  it('is sent for every call in a transaction: it may commit late', async () => {
    const { service, dataSource } = await bootApp(database, { options: { unknownNames: 'accept' } });
    const payloads = await notificationsOf(database, () =>
      dataSource.transaction((manager) => service.callWithDelay('elsewhere', null, '1 day', { manager })),
    );
    expect(payloads).toHaveLength(1);
  });

  it('is not sent when the process that schedules takes the call itself', async () => {
    let ran!: () => void;
    const hasRun = new Promise<void>((resolve) => (ran = resolve));
    // It takes none while it has heard nothing from the server for that long.
    const options = { rescueAfter: '1m' };
    const { service } = await bootApp(database, { providers: handlers(1, () => ran()), options });
    const payloads = await notificationsOf(database, async () => {
      await service.callWithDelay('handler 0', null, 0);
      await hasRun;
    });
    expect(payloads).toEqual([]);
  });

  it('is not trusted: nonsense on the channel does no harm', async () => {
    let ran!: () => void;
    const hasRun = new Promise<void>((resolve) => (ran = resolve));
    const { service } = await bootApp(database, { providers: handlers(1, () => ran()) });
    for (const payload of [
      '',
      'x',
      ' handler 0',
      '1e400 handler 0',
      '-1e300 handler 0',
      'NaN handler 0',
      '0 nobody',
      '9e15 ',
    ]) {
      await database.query(`select pg_notify('future_call_' || 'future_call_instance'::regclass::oid, $1)`, [
        payload,
      ]);
    }
    await service.callWithDelay('handler 0', null, 0);
    await hasRun;
  });
});
