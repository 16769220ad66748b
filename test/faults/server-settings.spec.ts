import type { EntityManager } from 'typeorm';
import { beforeEach, describe, expect, it, onTestFinished, type TestContext } from 'vitest';
import {
  FutureCall,
  FutureCallEntity,
  RetryError,
  type FutureCallContext,
  type FutureCallHandler,
} from '../../lib/index.js';
import { boot, bootApp, createTables } from '../support/app.js';
import { createDatabase, type TestDatabase } from '../support/database.js';
import { LogLines } from '../support/log-lines.js';
import type { AppProcess } from '../support/processes.js';
import { isSuperuser } from '../support/role.js';
import { until } from '../support/until.js';
import { RESCUE } from './support/evidence.js';
import { inWorld } from './support/in-world.js';
import { PATIENT, type World } from './support/world.js';

/** What the role's timeouts are set to, and for how long a test outlasts them. */
const TIMEOUT = '4s';
const LONGER = '5s';

/**
 * A role that may use the tables, and for which these settings hold, until `onEnd`. Answers with the database's URL as
 * this role.
 */
async function roleWith(
  database: TestDatabase,
  settings: Record<string, string>,
  { skip, onEnd }: { skip: TestContext['skip']; onEnd: (cleanup: () => Promise<void>) => void },
): Promise<string> {
  skip(!(await isSuperuser(database)), 'needs a superuser');
  const url = new URL(database.url);
  url.username = `${database.name}_role`;
  url.password = 'secret';
  const role = `"${url.username}"`;
  await database.query(`create role ${role} login password 'secret'`);
  onEnd(async () => {
    await database.query(`drop owned by ${role}; drop role ${role}`);
  });
  await database.query(`grant all on all tables in schema public to ${role}`);
  await database.query(`grant all on all sequences in schema public to ${role}`);
  for (const [setting, value] of Object.entries(settings)) {
    await database.query(`alter role ${role} set ${setting} = '${value}'`);
  }
  return url.href;
}

const roleInWorld = (world: World, skip: TestContext['skip'], settings: Record<string, string>) =>
  roleWith(world.database, settings, { skip, onEnd: (cleanup) => world.onEnd(cleanup) });

/** Keeps what a setting is while a call is claimed, as only the claim itself can tell. */
async function noteClaims(database: TestDatabase, setting: string): Promise<void> {
  await database.query('create table claimed_with (setting text)');
  await database.query(`
    create function note() returns trigger language plpgsql as $$
      begin
        insert into public.claimed_with values (current_setting('${setting}'));
        return new;
      end $$;
    create trigger note before insert on future_call_running for each row execute function note()`);
}

const claimedWith = (database: TestDatabase) =>
  database.query<{ setting: string }>('select distinct setting from claimed_with');

const disconnections = (app: AppProcess) => app.messages.filter(({ type }) => type === 'disconnected');

const outcomes = async (world: World, ids: readonly string[]) =>
  (await world.untilEnded(ids)).map(({ outcome, attempt }) => `${outcome} ${attempt}`);

describe('The isolation level that the database sets for all transactions', () => {
  // With these PostgreSQL refuses statements that meet a concurrent change: a claim would, all the time.
  it.each(['serializable', 'repeatable read'])(
    'claims, completions, retries, cancels and rescues go on when transactions of the database are %s by default',
    (isolation) =>
      inWorld(async (world) => {
        await world.database.query(
          `alter database "${world.database.name}" set default_transaction_isolation = '${isolation}'`,
        );
        await noteClaims(world.database, 'transaction_isolation');
        const logger = new LogLines();
        const { service, dataSource, close } = await boot(world.database, {
          options: { execute: false },
          logger,
        });
        world.onEnd(close);
        const [{ default_transaction_isolation: found }] = await dataSource.query<
          [{ default_transaction_isolation: string }]
        >('show default_transaction_isolation');
        expect(found).toBe(isolation);

        const [victim, survivor] = await Promise.all([
          world.run({
            handlers: { call: {}, again: { attempts: 2, backoff: { type: 'fixed', delay: 10 } }, hers: {} },
          }),
          world.run({
            handlers: { call: {}, again: { attempts: 2, backoff: { type: 'fixed', delay: 10 } } },
          }),
        ]);
        const held = await world.schedule('hers', { hold: true });
        await victim.waitFor('holding');

        const schedule = (handler: string, act: object | null = null, manager?: EntityManager) =>
          service.callWithDelay(handler, act, 0, { identifier: 'some', manager });
        const scheduled = await Promise.all([
          ...Array.from({ length: 200 }, () => schedule('call')),
          ...Array.from({ length: 20 }, () => schedule('again', { fail: 1 })),
          dataSource.transaction((manager) => schedule('call', null, manager)),
        ]);
        const ids = scheduled.map(({ id }) => id);
        await world.accept(ids);
        await Promise.all(
          Array.from({ length: 10 }, () =>
            service.callWithDelay('call', null, '1h', { identifier: 'later' }),
          ),
        );
        expect(await service.cancel('later')).toBe(10);

        expect((await outcomes(world, ids)).toSorted()).toEqual([
          ...Array.from({ length: 201 }, () => 'completed 1'),
          ...Array.from({ length: 20 }, () => 'completed 2'),
        ]);
        await victim.kill();
        expect(await outcomes(world, [held])).toEqual(['interrupted 1']);
        expect(await claimedWith(world.database)).toEqual([{ setting: 'read committed' }]);
        for (const { output } of [victim, survivor]) expect(output).not.toMatch(/serialize|fail(s|ed):/);
        expect(logger.warnings).toEqual([]);
      })(),
  );
});

describe('Timeouts that the role sets, and that are far too short', () => {
  it.concurrent(
    'a short idle_session_timeout of the role does not end the session of an idle instance',
    ({ skip }) =>
      inWorld(async (world) => {
        const url = await roleInWorld(world, skip, { idle_session_timeout: TIMEOUT });
        // Looks every 7.5 s, and nothing else.
        const app = await world.run({ url, options: { ...PATIENT, pollInterval: '10m' } });
        const instance = await world.instanceOf(app);
        const backend = await world.backendOf(instance);
        await world.outlast(instance, 'idle', LONGER);
        expect(await outcomes(world, [await world.schedule('call')])).toEqual(['completed 1']);
        expect(await world.backendOf(instance)).toBe(backend);
        expect(disconnections(app)).toEqual([]);
      })(),
  );

  it.concurrent(
    'a short statement_timeout and lock_timeout of the role do not end a claim that has to wait',
    ({ skip }) =>
      inWorld(async (world) => {
        const url = await roleInWorld(world, skip, { statement_timeout: TIMEOUT, lock_timeout: TIMEOUT });
        // The session has limits of its own, which are shorter where it is looked after more often.
        const app = await world.run({ url, options: PATIENT });
        const instance = await world.instanceOf(app);
        const barrier = await world.barrier('claim', instance);
        const id = await world.schedule('call');
        await barrier.reached();
        await world.outlast(instance, 'active', LONGER);
        await barrier.open();
        expect(await outcomes(world, [id])).toEqual(['completed 1']);
        expect(app.output).not.toMatch(/Claiming fails/);
        expect(disconnections(app)).toEqual([]);
      })(),
  );

  it.concurrent(
    'a short idle_in_transaction_session_timeout and transaction_timeout of the role do not end a rescue',
    ({ skip }) =>
      inWorld(async (world) => {
        const [{ exists } = { exists: false }] = await world.database.query<{ exists: boolean }>(
          `select exists (select from pg_settings where name = 'transaction_timeout')`,
        );
        const url = await roleInWorld(
          world,
          skip,
          // PostgreSQL 17 and newer have the second one.
          { idle_in_transaction_session_timeout: TIMEOUT, ...(exists && { transaction_timeout: TIMEOUT }) },
        );
        const victim = await world.run();
        const id = await world.schedule('call', { hold: true });
        await victim.waitFor('holding');
        const proxy = await world.proxy(url);
        // Waits for an answer for twice as long.
        const rescuer = await world.run({ url, proxy, options: { rescueAfter: 5_000 } });
        const instance = await world.instanceOf(rescuer);

        // The answer to the first statement of the rescue is slow.
        proxy.judge = ({ statement }) => (RESCUE.test(statement) ? 'freeze' : 'pass');
        await victim.kill();
        await world.outlast(instance, 'idle in transaction', LONGER);
        proxy.judge = () => 'pass';
        proxy.thaw();
        expect(await outcomes(world, [id])).toEqual(['interrupted 1']);
        await rescuer.waitFor('rescued');
        expect(disconnections(rescuer)).toEqual([]);
      })(),
  );
});

@FutureCall('fail')
class Fail implements FutureCallHandler {
  invoke() {
    throw new Error('fails on purpose');
  }
}

async function emptyDatabase(): Promise<TestDatabase> {
  const database = await createDatabase();
  onTestFinished(() => database.drop());
  await createTables(database);
  return database;
}

describe('What the role says about commits', () => {
  let completed = 0;
  beforeEach(() => {
    completed = 0;
  });

  @FutureCall('complete')
  class Complete implements FutureCallHandler {
    invoke() {
      completed++;
    }
  }

  // A claim that a crash of the server takes back would start twice.
  it.for([
    ['off', 'on'],
    ['local', 'on'],
    ['on', 'on'],
    ['remote_write', 'remote_write'],
    ['remote_apply', 'remote_apply'],
  ] as const)(
    'a role with synchronous_commit = %s commits its claims with %s',
    async ([setting, expected], { skip }) => {
      const database = await emptyDatabase();
      await noteClaims(database, 'synchronous_commit');
      const url = await roleWith(database, { synchronous_commit: setting }, { skip, onEnd: onTestFinished });
      const { service } = await bootApp(database, { typeorm: { url }, providers: [Complete] });
      await service.callWithDelay(Complete, null, 0);
      await until(async () => completed === 1, 'it has run');
      expect(await claimedWith(database)).toEqual([{ setting: expected }]);
    },
  );

  it('a role with default_transaction_read_only = on claims, runs and records calls; it schedules none, as it writes nothing else', async ({
    skip,
  }) => {
    const database = await emptyDatabase();
    const { service } = await bootApp(database, { options: { execute: false } });
    const url = await roleWith(
      database,
      { default_transaction_read_only: 'on' },
      { skip, onEnd: onTestFinished },
    );
    const readOnly = await bootApp(database, { typeorm: { url }, providers: [Complete, Fail] });
    await expect(readOnly.service.callWithDelay(Complete, null, 0)).rejects.toMatchObject({
      name: 'QueryFailedError',
      code: '25006',
    });
    await service.callWithDelay('complete', null, 0);
    const { id } = await service.callWithDelay('fail', null, 0);
    await until(async () => completed === 1, 'the one has run');
    await until(
      async () => (await database.query('select from future_call_outcome')).length === 1,
      'the other one is recorded',
    );
    await readOnly.close();
    expect(await database.query('select call_id, outcome from future_call_outcome')).toEqual([
      { call_id: id, outcome: 'failed' },
    ]);
    expect(await database.query('select from future_call_running')).toEqual([]);
    expect(await database.query('select from future_call_instance')).toEqual([]);
  });
});

describe('How the role writes times and numbers', () => {
  it('does not matter to us: calls are scheduled, listed, tried again, kept and cancelled to the millisecond', async ({
    skip,
  }) => {
    const database = await emptyDatabase();
    const written = {
      DateStyle: 'German, DMY',
      IntervalStyle: 'sql_standard',
      TimeZone: 'America/New_York',
      extra_float_digits: '-15',
      bytea_output: 'escape',
    };
    const url = await roleWith(database, written, { skip, onEnd: onTestFinished });
    const at = new Date('2031-02-03T04:05:06.789Z');
    const again = new Date('2032-02-03T04:05:06.789Z');
    const handed: Date[] = [];
    @FutureCall('dated', { attempts: 2 })
    class Dated {
      invoke(_data: null, call: FutureCallContext) {
        handed.push(call.dueAt);
        throw new RetryError({ at: again });
      }
    }
    const { service, dataSource } = await bootApp(database, {
      typeorm: { url },
      providers: [Dated, Fail],
      options: { retention: { cancelled: true } },
    });
    expect(await dataSource.query('show datestyle')).toEqual([{ DateStyle: 'German, DMY' }]);

    expect((await service.callAtTime('dated', null, at)).dueAt).toEqual(at);
    const [, delayed] = await service.callMany([
      { handler: 'dated', time: at, identifier: 'many' },
      // A daylight-saving change lies between: a day has 24 hours all the same.
      { handler: 'dated', delay: { days: 182 }, identifier: 'many' },
    ]);
    expect(Math.abs(delayed!.dueAt.getTime() - Date.now() - 182 * 86_400_000)).toBeLessThan(60_000);
    const single = await service.callWithDelay('dated', null, { days: 182 }, { identifier: 'many' });
    expect(Math.abs(single.dueAt.getTime() - delayed!.dueAt.getTime())).toBeLessThan(60_000);
    expect(await service.cancel('many')).toBe(3);
    expect(
      await database.query(
        `select due_at from future_call_outcome where outcome = 'cancelled' order by call_id limit 1`,
      ),
    ).toEqual([{ due_at: at }]);

    const now = await service.callWithDelay('dated', null, 0);
    const { id } = await service.callWithDelay('fail', null, 0);
    const retried = await until(async () => {
      const [row] = await database.query<{ due_at: Date }>(
        'select due_at from future_call where id = $1 and attempt = 1',
        [now.id],
      );
      return row;
    }, 'it is to be tried again');
    expect(retried.due_at).toEqual(again);
    expect(handed).toEqual([now.dueAt]);
    const [failed] = await until(async () => {
      const rows = await database.query<{ at: string; finished_at: Date }>(
        `select errors -> -1 ->> 'at' as at, finished_at from future_call_outcome where call_id = $1`,
        [id],
      );
      return rows.length === 1 && rows;
    }, 'it is recorded');
    expect(failed!.at).toMatch(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/);
    expect(Math.abs(Date.parse(failed!.at) - Date.now())).toBeLessThan(60_000);

    // Who reads times through such a pool gets none, of any table: pg knows no other style than ISO.
    const calls = dataSource.getRepository(FutureCallEntity);
    expect(await calls.findOneByOrFail({ id: now.id })).toMatchObject({ name: 'dated', dueAt: null });
  });
});

// A role with only the rights that docs/operations.md lists: test/e2e/schema-grants.spec.ts.
