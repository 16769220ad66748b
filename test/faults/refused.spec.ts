import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { FutureCallHandlerCheck } from '../../lib/engine/future-call.handler-check.js';
import { FutureCall, type FutureCallEvent, type FutureCallHandler } from '../../lib/index.js';
import { bootApp, createTables, type BootedApp } from '../support/app.js';
import { createDatabase, type TestDatabase } from '../support/database.js';
import { engineOf } from '../support/engine.js';
import { LogLines } from '../support/log-lines.js';
import { PostgresProxy } from '../support/proxy.js';
import { createRole, isSuperuser } from '../support/role.js';
import { until } from '../support/until.js';
import { LOOK, untilAnswered } from './support/evidence.js';
import { RESCUE_AFTER } from './support/world.js';

let started = 0;

@FutureCall('start')
class Start implements FutureCallHandler {
  invoke() {
    started++;
  }
}

let release = () => {};

@FutureCall('hold')
class Hold implements FutureCallHandler {
  async invoke(_data: unknown, { signal }: { signal: AbortSignal }) {
    started++;
    await new Promise<void>((resolve) => (release = resolve));
    signal.throwIfAborted();
  }
}

interface Watched extends BootedApp {
  readonly logger: LogLines;
  readonly events: FutureCallEvent[];
}

const FAST = { rescueAfter: RESCUE_AFTER, pollInterval: 500, retention: { completed: true } };

async function boot(
  database: TestDatabase,
  { url = database.url, sessionUrl = undefined as string | undefined } = {},
) {
  const logger = new LogLines();
  const booted = await bootApp(database, {
    providers: [Start, Hold],
    logger,
    typeorm: { url },
    options: { ...FAST, ...(url !== database.url && { migrate: false }), sessionUrl },
  });
  const events: FutureCallEvent[] = [];
  booted.service.events.subscribe((event) => events.push(event));
  return { ...booted, logger, events } satisfies Watched;
}

async function emptyDatabase(): Promise<TestDatabase> {
  const database = await createDatabase();
  onTestFinished(() => database.drop());
  await createTables(database);
  return database;
}

/** The errors of the `disconnected` events, once there are so many. */
async function ends({ events }: Watched, count: number): Promise<(Error & { cause?: unknown })[]> {
  const errors = () => events.flatMap((event) => (event.type === 'disconnected' ? [event.error] : []));
  await until(async () => errors().length >= count, `the session was lost ${count} times`);
  return errors();
}

const untilBack = ({ events }: Watched, count = 1) =>
  until(async () => events.filter(({ type }) => type === 'connected').length >= count, 'it is back');

async function runs({ service }: Watched): Promise<void> {
  const before = started;
  await service.callWithDelay('start', null, 0);
  await until(async () => started === before + 1, 'it has run');
}

/** An instance that died with a call that it ran. */
const leaveBehind = (database: TestDatabase, instance: number, call: number) =>
  database.query(`
    insert into future_call_running (id, name, due_at, attempt, created_at, instance_id, claim)
    values (${call}, 'call of ${instance}', now(), 1, now(), ${instance}, 1)`);

describe('A right that is taken away while an app runs', () => {
  it('is told once, though it is asked for again and again, and once more when it is back; calls run meanwhile', async ({
    skip,
  }) => {
    const database = await emptyDatabase();
    skip(!(await isSuperuser(database)), 'needs a superuser');
    const role = await createRole(database);
    for (const what of ['tables', 'sequences']) {
      await database.query(`grant all on all ${what} in schema public to "${role.name}"`);
    }
    const proxy = await PostgresProxy.start(role.url);
    onTestFinished(() => proxy.close());
    const app = await boot(database, { url: role.url, sessionUrl: proxy.url(role.url) });
    await database.query(`revoke select on future_call_instance from "${role.name}"`);
    await leaveBehind(database, 1_000, 1_000_000);
    // Refused ones among them.
    await untilAnswered(proxy, LOOK, 3);
    await runs(app);
    const FAILS =
      /^Looking for dead instances fails, .*permission denied for table future_call_instance.*Give the role the rights/;
    expect(app.logger.warnings).toEqual([expect.stringMatching(FAILS)]);

    await database.query(`grant select on future_call_instance to "${role.name}"`);
    await until(async () => app.events.some(({ type }) => type === 'rescued'), 'who has died is found');
    expect(app.logger.lines).toContain('Looking for dead instances works again.');
    expect(app.logger.warnings.filter((line) => FAILS.test(line))).toHaveLength(1);
    expect(app.events.filter(({ type }) => type === 'disconnected')).toEqual([]);
  });

  it('by a policy that hides rows makes claims fail, and they say so: nothing looks as if nothing were due', async ({
    skip,
  }) => {
    const database = await emptyDatabase();
    skip(!(await isSuperuser(database)), 'needs a superuser');
    const role = await createRole(database);
    for (const what of ['tables', 'sequences']) {
      await database.query(`grant all on all ${what} in schema public to "${role.name}"`);
    }
    const app = await boot(database, { url: role.url });
    await database.query(`
      alter table future_call enable row level security;
      create policy hide on future_call using (false)`);
    await database.query(`insert into future_call (name, due_at) values ('start', now())`);
    await until(
      async () => app.logger.lines.some((line) => /^Claiming fails, .*row-level security policy/.test(line)),
      'it says so',
    );
    const before = started;
    await database.query('alter table future_call disable row level security');
    await until(async () => started === before + 1, 'it has run');
  });
});

describe('The end of a session', () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await createDatabase();
    await createTables(database);
  });
  afterAll(() => database.drop());

  it.each([
    ['a lock that is let go', 'select pg_advisory_unlock_all()', /^our lock is gone$/],
    [
      'DISCARD ALL, which ends prepared statements and the lock',
      'discard all',
      /^its prepared statements are gone: somebody has run DISCARD ALL or DEALLOCATE/,
    ],
  ])('names its true reason: %s. The same instance is back at once', async (_, statement, reason) => {
    const app = await boot(database);
    await runs(app);
    const { session } = engineOf(app.app);
    const { id } = session.instance;
    await session.query({ text: statement });
    const [error] = await ends(app, 1);
    expect(error).toMatchObject({ name: 'FutureCallSessionError', cause: expect.any(Error) });
    expect(error!.message).toMatch(reason);
    await untilBack(app);
    expect(session.instance.id).toBe(id);
    expect(app.logger.warnings).toEqual([
      `Instance ${id} lost its session, and reconnects: ${error!.message}`,
    ]);
    await runs(app);
  });
});

describe('The row of an instance that runs', () => {
  it('is written again when it was removed; whoever boots after truncate … restart identity takes an id that nobody has', async () => {
    const database = await emptyDatabase();
    const app = await boot(database);
    const before = started;
    const { id } = await app.service.callWithDelay('hold', null, 0);
    await until(async () => started === before + 1, 'it runs');
    const { instance } = engineOf(app.app).session;
    const own = instance.id;
    // What a dead one ran must not look as if whoever gets its id ran it.
    await leaveBehind(database, own + 1, 77);
    await database.query('truncate future_call_instance restart identity');
    const other = await boot(database);
    expect(engineOf(other.app).session.instance.id).toBe(own + 2);

    const rows = () => database.query('select id, pid from future_call_instance order by id');
    await until(async () => (await rows()).length === 2, 'both have a row');
    expect((await rows())[0]).toEqual({ id: own, pid: process.pid });
    release();
    const outcomes = () =>
      database.query('select call_id, outcome from future_call_outcome order by call_id::text');
    await until(async () => (await outcomes()).length === 2, 'both calls have an outcome');
    expect(await outcomes()).toEqual([
      { call_id: id, outcome: 'completed' },
      { call_id: '77', outcome: 'interrupted' },
    ]);
    expect(app.events.filter(({ type }) => type === 'disconnected')).toEqual([]);
    // Nest has one logger for all apps of a process: the last one's.
    expect(other.logger.warnings).toContain(
      `The row of instance ${own} was removed from future_call_instance, by hand or by a truncate, while the instance runs. It is there again.`,
    );
  });

  it('that is removed while it has no session makes it another one, and says no more than is known', async () => {
    const database = await emptyDatabase();
    const proxy = await PostgresProxy.start(database.url);
    onTestFinished(() => proxy.close());
    const app = await boot(database, { sessionUrl: proxy.url(database.url) });
    const { instance } = engineOf(app.app).session;
    const own = instance.id;
    proxy.refuses = true;
    proxy.cut();
    await ends(app, 1);
    await database.query('delete from future_call_instance');
    proxy.refuses = false;
    await untilBack(app);
    expect(instance.id).toBe(own + 1);
    expect(app.logger.warnings.at(-1)).toBe(
      `This process goes on as instance ${own + 1}: the row of instance ${own} was removed while it had no session, as a rescue does.`,
    );
    await runs(app);
  });
});

describe('A table that somebody has locked', () => {
  it('is named by the look for calls without a handler, once until it works again', async () => {
    const database = await emptyDatabase();
    const logger = new LogLines();
    const { app } = await bootApp(database, { logger, options: { rescueAfter: 1_000 } });
    const { instances, session } = engineOf(app);
    const locker = await database.pool.connect();
    const check = new FutureCallHandlerCheck();
    await session.query({ text: `select set_config('lock_timeout', '100ms', false)` });
    for (let time = 0; time < 2; time++) {
      await locker.query('begin; lock table future_call in access exclusive mode');
      await check.check(instances);
      await check.check(instances);
      await locker.query('rollback');
      await check.check(instances);
    }
    locker.release();
    const told = logger.warnings.filter((line) => line.startsWith('Looking for calls'));
    expect(told).toHaveLength(2);
    expect(told[0]).toMatch(/lock timeout \(code 55P03\)\. Somebody has locked future_call or /);
  });
});
