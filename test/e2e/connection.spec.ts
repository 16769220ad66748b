import { DataSource } from 'typeorm';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { FutureCall } from '../../lib/index.js';
import { FutureCallConnection } from '../../lib/store/future-call.connection.js';
import { bootApp, createTables } from '../support/app.js';
import { createDatabase, type TestDatabase } from '../support/database.js';
import { until } from '../support/until.js';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
  await createTables(database);
});
afterAll(() => database.drop());

/** As with an older pg, which has no pipeline. */
const WITHOUT = { extra: { pipeline: false } };

async function connect(options: object): Promise<FutureCallConnection> {
  const dataSource = await new DataSource({ type: 'postgres', url: database.url, ...options }).initialize();
  onTestFinished(() => dataSource.destroy());
  const connection = await FutureCallConnection.open(dataSource, { applicationName: 'connection' });
  onTestFinished(() => connection.destroy('the test has ended'));
  return connection;
}

describe.each([
  ['with a pipeline', {}, true],
  ['without one', WITHOUT, false],
])("the engine's connection, %s", (_, options, isPipelined) => {
  it(`sends a statement ${isPipelined ? 'before' : 'once'} the one before it is answered`, async () => {
    const connection = await connect(options);
    const first = connection.query({ text: 'select pg_sleep(0.1)' }).then(() => performance.now());
    const second = await connection.query({ name: 'second', text: 'select $1::int' }, [2]);
    expect(second.rows).toEqual([['2']]);
    expect(second.sentAt < (await first)).toBe(isPipelined);
  });

  it('gives each statement its own answer, errors too', async () => {
    const connection = await connect(options);
    const double = { name: 'double', text: 'select 10 / $1::int' };
    const answers = [5, 0, 2, 0, 1].map((n) =>
      connection.query(double, [n]).then(
        ({ rows }) => rows[0]![0],
        (error: { code: string }) => error.code,
      ),
    );
    expect(await Promise.all(answers)).toEqual(['2', '22012', '5', '22012', '10']);
  });

  it('lets no statement into a transaction', async () => {
    const connection = await connect(options);
    const xid = { text: 'select pg_current_xact_id()::text' };
    const before = connection.query(xid);
    const inside = connection.transaction(async (query) => [await query(xid), await query(xid)]);
    const after = connection.query(xid);
    const failed = connection.transaction(async (query) => {
      await query(xid);
      throw new Error('no');
    });
    const last = connection.query(xid);
    await expect(failed).rejects.toThrow('no');
    const ids = [await before, ...(await inside), await after, await last].map(({ rows }) => rows[0]![0]);
    expect(ids[1]).toBe(ids[2]);
    expect(new Set(ids).size).toBe(4);
  });

  it('sends a statement again whose plan was refused, and not into a transaction that was begun meanwhile', async () => {
    const connection = await connect(options);
    await database.query('create table changed (a int); insert into changed values (1)');
    onTestFinished(() => database.query('drop table changed').then(() => {}));
    const xid = { text: 'select pg_current_xact_id()::text' };
    const planned = { name: 'planned', text: 'select a, pg_current_xact_id()::text from changed' };
    await connection.query(planned);
    await database.query('alter table changed alter column a type text');
    const again = connection.query(planned);
    const inside = await connection.transaction(async (query) => {
      await query({ text: 'select pg_sleep(0.1)' });
      return query(xid);
    });
    expect((await again).rows).toEqual([['1', expect.any(String)]]);
    expect((await again).rows[0]![1]).not.toBe(inside.rows[0]![0]);
  });

  it('rejects all that has no answer when it breaks', async () => {
    const connection = await connect(options);
    const given = [1, 2, 3].map(() => connection.query({ text: 'select pg_sleep(60)' }));
    const ends = Promise.allSettled(given);
    connection.destroy('the test ends it');
    expect((await ends).map(({ status }) => status)).toEqual(['rejected', 'rejected', 'rejected']);
  });

  it('runs calls that complete, fail and are tried again, and rescues', async () => {
    let ran = 0;
    @FutureCall('work', { attempts: 2, backoff: { type: 'fixed', delay: 0 } })
    class Work {
      invoke(n: number) {
        ran++;
        if (n % 3 === 0) throw new Error('no');
      }
    }
    await database.query(
      `insert into future_call (name, data, due_at) select 'work', to_jsonb(n), now() from generate_series(1, 3000) n`,
    );
    await database.query(
      `insert into future_call_running (id, name, due_at, created_at, attempt, instance_id, claim)
       values (-1, 'work', now(), now(), 1, -1, 1)`,
    );
    await bootApp(database, { providers: [Work], typeorm: options, options: { rescueAfter: 500 } });
    await until(async () => {
      const [row] = await database.query<{ n: string }>(
        `select (select count(*) from future_call) + (select count(*) from future_call_running) as n`,
      );
      return row!.n === '0';
    }, 'all have ended');
    expect(ran).toBe(4_000);
    const outcomes = await database.query(
      `select outcome, count(*) from future_call_outcome group by outcome order by outcome`,
    );
    expect(outcomes).toEqual([
      { outcome: 'failed', count: '1000' },
      { outcome: 'interrupted', count: '1' },
    ]);
    await database.query('truncate future_call_outcome');
  });
});
