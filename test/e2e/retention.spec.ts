import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest';
import { FutureCall } from '../../lib/index.js';
import { bootApp, createTables } from '../support/app.js';
import { createDatabase, type TestDatabase } from '../support/database.js';
import { LogLines } from '../support/log-lines.js';
import { until } from '../support/until.js';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
  await createTables(database);
});
beforeEach(() => database.query('truncate future_call, future_call_running, future_call_outcome'));
afterAll(() => database.drop());

@FutureCall('greet')
class Greet {
  invoke() {}
}

@FutureCall('fail')
class Fail {
  invoke() {
    throw new Error('no');
  }
}

const outcomes = () => database.query('select outcome, name, attempt, identifier from future_call_outcome');

const insertOutcomes = (outcome: string, count: number, age: string) =>
  database.query(
    `insert into future_call_outcome (call_id, name, due_at, attempt, outcome, created_at, finished_at)
     select nextval(pg_get_serial_sequence('future_call', 'id')), 'old', now(), 1, $1, now(), now() - $3::interval
     from generate_series(1, $2)`,
    [outcome, count, age],
  );

describe('retention', () => {
  it('keeps completed and cancelled calls when it is told to', async () => {
    const options = { retention: { completed: '1h', cancelled: true } };
    const { service } = await bootApp(database, { providers: [Greet], options });
    const { id } = await service.callWithDelay(Greet, null, 0, { identifier: 'x' });
    await until(async () => (await outcomes()).length === 1, 'the call has completed');
    await service.callWithDelay(Greet, null, '1h', { identifier: 'y' });
    expect(await service.cancel('y')).toBe(1);
    expect(await outcomes()).toEqual([
      { outcome: 'completed', name: 'greet', attempt: 1, identifier: 'x' },
      { outcome: 'cancelled', name: 'greet', attempt: 0, identifier: 'y' },
    ]);
    const [row] = await database.query('select * from future_call_outcome where call_id = $1', [id]);
    expect(row).toMatchObject({
      pid: process.pid,
      errors: null,
      started_at: expect.any(Date),
      finished_at: expect.any(Date),
    });
  });

  it('keeps no failed call when it is told so', async () => {
    const { service } = await bootApp(database, {
      providers: [Fail],
      options: { retention: { failed: false } },
    });
    await service.callWithDelay(Fail, null, 0);
    await until(
      async () =>
        (await database.query('select from future_call union all select from future_call_running')).length ===
        0,
      'the call has ended',
    );
    expect(await outcomes()).toEqual([]);
  });

  it('keeps no interrupted call when it is told so, neither of this instance nor of one that died', async () => {
    @FutureCall('stuck')
    class Stuck {
      invoke() {
        return new Promise(() => {});
      }
    }
    const { service, close } = await bootApp(database, {
      providers: [Stuck],
      options: { retention: { interrupted: false }, rescueAfter: 500, shutdownTimeout: 0 },
    });
    const types: string[] = [];
    service.events.subscribe(({ type }) => types.push(type));
    await database.query(`
      with dead as (
        insert into future_call_instance (host, pid, poll_interval, handlers) values ('gone', 42, 10000, '{}') returning id
      )
      insert into future_call_running (id, name, due_at, attempt, created_at, instance_id, claim)
      select 4711, 'stuck', now(), 1, now(), id, 1 from dead`);
    await until(async () => types.includes('rescued'), 'the dead one is found');
    await service.callWithDelay(Stuck, null, 0);
    await until(async () => types.includes('started'), 'the call runs');
    await close();
    expect(types.filter((type) => type === 'interrupted')).toHaveLength(2);
    expect(await database.query('select from future_call_running')).toEqual([]);
    expect(await outcomes()).toEqual([]);
  });

  it('deletes what is older, batch by batch, and nothing else', async () => {
    await database.query(`
      create table deleted (count bigint);
      create function count_deleted() returns trigger language plpgsql as $$
        begin insert into public.deleted select count(*) from gone having count(*) > 0; return null; end $$;
      create trigger count_deleted after delete on future_call_outcome referencing old table as gone
        for each statement execute function count_deleted()`);
    await insertOutcomes('failed', 2_500, '1 hour');
    await insertOutcomes('failed', 3, '0');
    await insertOutcomes('interrupted', 3, '1 year');
    await insertOutcomes('cancelled', 3, '1 year');
    await bootApp(database, {
      options: { retention: { failed: '30m', interrupted: true, completed: '1s', cancelled: '2y' } },
    });
    await until(async () => (await outcomes()).length === 9, 'old outcomes are gone');
    expect(
      await database.query(
        'select outcome, count(*)::int from future_call_outcome group by outcome order by outcome',
      ),
    ).toEqual([
      { outcome: 'cancelled', count: 3 },
      { outcome: 'failed', count: 3 },
      { outcome: 'interrupted', count: 3 },
    ]);
    expect(await database.query('select count from deleted')).toEqual([
      { count: '1000' },
      { count: '1000' },
      { count: '500' },
    ]);
    // In the order in which the pruner locks, which still runs: the trigger's table, and what the trigger writes to.
    await database.query('drop function count_deleted cascade; drop table deleted');
  });

  it('is left to one instance at a time', async () => {
    await insertOutcomes('failed', 10, '1 minute');
    const client = await database.pool.connect();
    try {
      await client.query('begin');
      await client.query(`select pg_advisory_xact_lock('future_call_instance'::regclass::oid::int, 0)`);
      const { service } = await bootApp(database, {
        providers: [Greet],
        options: { retention: { failed: '1s', completed: '1s' } },
      });
      // It tries every second, so it has tried when this call is due; and claims are not kept waiting.
      await service.callWithDelay(Greet, null, 1_500);
      await until(
        async () => (await outcomes()).some(({ outcome }) => outcome === 'completed'),
        'the call has run',
      );
      expect(await database.query(`select from future_call_outcome where outcome = 'failed'`)).toHaveLength(
        10,
      );
      await client.query('rollback');
      await until(async () => (await outcomes()).length === 0, 'the outcomes are gone');
    } finally {
      client.release();
    }
  });

  it('is looked after within seconds of the boot, however long outcomes are kept', async () => {
    await insertOutcomes('failed', 2_500, '31 days');
    // Instances that boot together come one after the other, within a quarter of a minute. This one comes early.
    const { random } = Math;
    const early = vi.spyOn(Math, 'random').mockImplementation(() => random() / 20);
    onTestFinished(() => early.mockRestore());
    await bootApp(database, { providers: [Greet] });
    await until(async () => (await outcomes()).length === 0, 'the outcomes are gone', 15_000);
  });

  it('passes over what somebody has locked', async () => {
    await insertOutcomes('failed', 10, '1 minute');
    const client = await database.pool.connect();
    try {
      await client.query('begin');
      await client.query('select from future_call_outcome order by call_id limit 3 for share');
      await bootApp(database, { options: { retention: { failed: '1s' } } });
      await until(async () => (await outcomes()).length === 3, 'the others are gone');
      await client.query('rollback');
      await until(async () => (await outcomes()).length === 0, 'all are gone');
    } finally {
      client.release();
    }
  });

  it('that fails is told once for each reason, and goes on when it can', async () => {
    await insertOutcomes('failed', 10, '1 minute');
    await database.query(`
      create sequence tries;
      create function refuse() returns trigger language plpgsql as $$
        begin perform nextval('public.tries'); raise exception 'kept by law'; end $$;
      create trigger refuse before delete on future_call_outcome for each statement execute function refuse()`);
    const logger = new LogLines();
    await bootApp(database, { options: { retention: { failed: '1s' } }, logger });
    await until(async () => {
      const [row] = await database.query<{ tries: number }>('select last_value::int as tries from tries');
      return row!.tries >= 2;
    }, 'it has been tried again');
    expect(logger.warnings).toEqual([
      'Deleting old outcomes fails, and is tried again later: kept by law (code P0001)',
    ]);
    await database.query('drop function refuse cascade; drop sequence tries');
    await until(async () => (await outcomes()).length === 0, 'the outcomes are gone');
  });
});
