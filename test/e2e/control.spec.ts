import { AsyncLocalStorage } from 'node:async_hooks';
import { once } from 'node:events';
import { createServer, type AddressInfo, type Socket } from 'node:net';
import { Injectable, type OnApplicationBootstrap, type OnModuleInit } from '@nestjs/common';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import {
  FutureCall,
  FutureCallControl,
  FutureCallOptionsError,
  FutureCallSessionError,
  type FutureCallContext,
  type FutureCallHandler,
  type FutureCallModuleOptions,
} from '../../lib/index.js';
import { bootApp, createTables, type BootedApp, type BootOptions } from '../support/app.js';
import { createDatabase, type TestDatabase } from '../support/database.js';
import { LogLines } from '../support/log-lines.js';
import { spawnApp } from '../support/processes.js';
import { countStatements, countsStatements } from '../support/statements.js';
import { PostgresProxy } from '../support/proxy.js';
import { until } from '../support/until.js';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
  await createTables(database);
});
beforeEach(async () => {
  await database.query(
    'truncate future_call, future_call_running, future_call_outcome, future_call_instance',
  );
  runs.length = 0;
  during = async () => {};
});
afterAll(() => database.drop());

/** What has been started, in that order, and what happens then. */
const runs: unknown[] = [];
let during: (data: unknown, call: FutureCallContext) => Promise<unknown> = async () => {};

class Does implements FutureCallHandler {
  async invoke(data: unknown, call: FutureCallContext) {
    runs.push(data);
    await during(data, call);
  }
}
@FutureCall('once')
class Once extends Does {}
@FutureCall('twice', { attempts: 2, backoff: { type: 'fixed', delay: 0 } })
class Twice extends Does {}

@FutureCall('often', { attempts: 5, backoff: { type: 'fixed', delay: 0 } })
class Often extends Does {}

interface ManualApp extends BootedApp {
  readonly control: FutureCallControl;
}

async function bootManual(options: FutureCallModuleOptions = {}, more: BootOptions = {}): Promise<ManualApp> {
  const booted = await bootApp(database, {
    providers: [Once, Twice, Often],
    options: { execute: 'manual', ...options },
    ...more,
  });
  return { ...booted, control: booted.app.get(FutureCallControl) };
}

const NOTHING = { started: 0, completed: 0, failed: 0, retried: 0, interrupted: 0, rescued: 0 };

/** Everything that an instance has, as the database sees it. */
async function traces() {
  const [row] = await database.query<{ sessions: string; locks: string; instances: string; running: string }>(
    `select
       (select count(*) from pg_stat_activity where datname = current_database() and application_name like 'future-call%') as sessions,
       (select count(*) from pg_locks where locktype = 'advisory'
          and database = (select oid from pg_database where datname = current_database())) as locks,
       (select count(*) from future_call_instance) as instances,
       (select count(*) from future_call_running) as running`,
  );
  return Object.fromEntries(Object.entries(row!).map(([name, count]) => [name, Number(count)]));
}
const NO_TRACES = { sessions: 0, locks: 0, instances: 0, running: 0 };

const endSessions = () =>
  database.query(
    `select pg_terminate_backend(pid) from pg_stat_activity
     where datname = current_database() and application_name like 'future-call instance%'`,
  );

describe("execute: 'manual'", () => {
  it('boots quietly, runs nothing by itself, and schedules as ever', async () => {
    const logger = new LogLines();
    const { service } = await bootManual({}, { logger });
    expect(logger.lines).toContain(
      `Ready. This process runs future calls when it is told to (execute: 'manual').`,
    );
    await service.callWithDelay(Once, 'later', 0);
    await expect(service.callWithDelay('onse', 'typo', 0)).rejects.toThrow('No handler for "onse"');
    expect(await traces()).toEqual(NO_TRACES);
    expect(runs).toEqual([]);
  });
});

describe('start() and stop()', () => {
  it('run calls in between, again and again, each time as a new instance', async () => {
    const { control, service } = await bootManual();
    const ids: number[] = [];
    for (let round = 0; round < 3; round++) {
      await service.callWithDelay(Once, round, 0);
      await control.start();
      await control.start();
      const instances = await database.query<{ id: number }>('select id from future_call_instance');
      expect(instances).toHaveLength(1);
      ids.push(instances[0]!.id);
      await until(async () => runs.includes(round), `call ${round} has run`);
      await service.callWithDelay(Once, `local ${round}`, 0);
      await until(async () => runs.includes(`local ${round}`), 'so does one that this process schedules');
      await control.stop();
      await control.stop();
      expect(await traces()).toEqual(NO_TRACES);
    }
    expect(new Set(ids).size).toBe(3);
    await service.callWithDelay(Once, 'after', 0);
    expect(runs).not.toContain('after');
  });

  it('take turns, whoever is first: what comes last is what is so', async () => {
    const { control } = await bootManual();
    await Promise.all([control.start(), control.stop(), control.start(), control.start(), control.stop()]);
    expect(await traces()).toEqual(NO_TRACES);
    await Promise.all([control.stop(), control.start()]);
    expect(await traces()).toMatchObject({ sessions: 1, instances: 1 });
  });

  it('stop and start an app that executes by itself', async () => {
    const { app, service } = await bootApp(database, { providers: [Once] });
    const control = app.get(FutureCallControl);
    await control.stop();
    await service.callWithDelay(Once, 'waits', 0);
    expect(await traces()).toEqual(NO_TRACES);
    await control.start();
    await until(async () => runs.includes('waits'), 'it has run');
  });

  it('drain: what runs may finish', async () => {
    let finish!: () => void;
    during = () => new Promise<void>((resolve) => (finish = resolve));
    const { control, service } = await bootManual({ retention: { completed: true } });
    await control.start();
    await service.callWithDelay(Once, 'runs', 0);
    await until(async () => runs.length === 1, 'it runs');
    const stopped = control.stop();
    finish();
    await stopped;
    expect(await database.query('select outcome from future_call_outcome')).toEqual([
      { outcome: 'completed' },
    ]);
  });

  it('tell other instances of a call whose insert was on its way when they stopped', async () => {
    const options = { pollInterval: '1h' };
    const { app, service } = await bootApp(database, { providers: [Once], options });
    await bootApp(database, { providers: [Once], options });
    const control = app.get(FutureCallControl);
    const locker = await database.pool.connect();
    try {
      for (const starts of [false, true]) {
        await locker.query('begin; lock table future_call in share mode');
        const scheduled = service.callWithDelay(Once, `starts again: ${starts}`, 0);
        await until(
          async () =>
            (
              await database.query(`select from pg_stat_activity where datname = current_database()
                and wait_event_type = 'Lock' and query like '%insert into%'`)
            ).length > 0,
          'the insert waits',
        );
        await control.stop();
        if (starts) await control.start();
        await locker.query('rollback');
        await scheduled;
        await until(async () => runs.includes(`starts again: ${starts}`), 'it runs all the same');
      }
    } finally {
      locker.release();
    }
  });

  it('may be tried again when there was no session', async () => {
    const { control } = await bootManual({ sessionUrl: 'postgres://127.0.0.1:1/nowhere' });
    await expect(control.start()).rejects.toThrow('ECONNREFUSED');
    await expect(control.start()).rejects.toThrow('ECONNREFUSED');
    await control.stop();
  });
});

describe('runDue()', () => {
  it('runs what is due and what becomes due meanwhile, and says what came of it, and when the next is due', async () => {
    const { control, service } = await bootManual();
    const later = await service.callWithDelay(Once, 'tomorrow', '1 day');
    await service.callMany([
      { handler: Once, data: 'schedules', delay: 0 },
      { handler: Once, data: 'throws', delay: 0 },
      { handler: Twice, data: 'throws once', delay: 0 },
      { handler: Once, data: 'waits for a later one', delay: 0 },
      { handler: Once, data: 'later', delay: 300 },
    ]);
    during = async (data, { attempt }) => {
      if (data === 'schedules') await service.callWithDelay(Once, 'scheduled', 0);
      if (data === 'waits for a later one') await until(async () => runs.includes('later'), 'the later one');
      if (data === 'throws' || (data === 'throws once' && attempt === 1)) throw new Error('on purpose');
    };
    expect(await control.runDue()).toEqual({
      started: 7,
      completed: 5,
      failed: 1,
      retried: 1,
      interrupted: 0,
      rescued: 0,
      nextDueAt: later.dueAt,
    });
    expect(runs.map(String).toSorted()).toEqual(
      [
        'later',
        'schedules',
        'scheduled',
        'throws',
        'throws once',
        'throws once',
        'waits for a later one',
      ].toSorted(),
    );
    expect(await traces()).toEqual(NO_TRACES);
    expect(await control.runDue()).toEqual({ ...NOTHING, nextDueAt: later.dueAt });
  });

  it('answers that nothing is to come when nothing is', async () => {
    const { control } = await bootManual();
    expect(await control.runDue()).toEqual({ ...NOTHING, nextDueAt: null });
  });

  it('makes one statement when there is nothing to do, and connects to nothing', async ({ skip }) => {
    skip(!(await countsStatements(database)), 'the server was started without pg_stat_statements');
    const { control, service } = await bootManual();
    await service.callWithDelay(Once, null, '1 day');
    const counts = await countStatements(database);
    for (let round = 0; round < 5; round++) await control.runDue();
    const made = Object.values(await counts()).reduce((sum, count) => sum + count, 0);
    expect(made).toBe(5);
  });

  it('starts `limit` calls at most, and leaves the others to the next', async () => {
    const { control, service } = await bootManual({ concurrency: 2 });
    const calls = await service.callMany(
      Array.from({ length: 10 }, (_, n) => ({ handler: Once, data: n, delay: 0 })),
    );
    const { nextDueAt, ...counts } = await control.runDue({ limit: 7 });
    expect(counts).toEqual({ ...NOTHING, started: 7, completed: 7 });
    expect(nextDueAt).toEqual(calls[7]!.dueAt);
    expect(runs).toHaveLength(7);
    expect(await control.runDue()).toEqual({ ...NOTHING, started: 3, completed: 3, nextDueAt: null });
    expect(runs.map(Number).toSorted((a, b) => a - b)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  });

  it('ends when `for` is over, and waits for what runs', async () => {
    const { control, service } = await bootManual();
    during = async (data) => {
      if (data === 'endless') await service.callWithDelay(Once, 'endless', 0);
    };
    await service.callWithDelay(Once, 'endless', 0);
    const { started, completed, nextDueAt } = await control.runDue({ for: 1_500 });
    expect(started).toBeGreaterThan(1);
    expect(completed).toBe(started);
    expect(nextDueAt).not.toBeNull();
    expect(await database.query('select from future_call')).toHaveLength(1);
  });

  it('interrupts what is not finished when `for` and shutdownTimeout are over', async () => {
    const { control, service } = await bootManual({ shutdownTimeout: 0 });
    during = (_data, { signal }) =>
      new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error)));
    await service.callWithDelay(Once, 'hangs', 0);
    await service.callWithDelay(Twice, 'hangs too', 0);
    expect(await control.runDue({ for: 1_500 })).toMatchObject({ ...NOTHING, started: 2, interrupted: 2 });
    expect(await database.query('select name, outcome from future_call_outcome')).toEqual([
      { name: 'once', outcome: 'interrupted' },
    ]);
  });

  it('runs the calls of the `handlers` that it is given, and no others', async () => {
    const { control, service } = await bootManual();
    await service.callWithDelay(Once, 'once', 0);
    const { dueAt } = await service.callWithDelay(Twice, 'twice', 0);
    expect(await control.runDue({ handlers: [] })).toEqual({ ...NOTHING, nextDueAt: null });
    const ran = { ...NOTHING, started: 1, completed: 1, nextDueAt: null };
    expect(await control.runDue({ handlers: [Once, 'once'] })).toEqual(ran);
    expect(runs).toEqual(['once']);
    expect(await database.query('select name, due_at from future_call')).toEqual([
      { name: 'twice', due_at: dueAt },
    ]);
    expect(await control.runDue({ handlers: ['twice'] })).toEqual(ran);
  });

  it('can be called fifty times, and leaves no connection, lock, row, listener or timer', async () => {
    const { control, service } = await bootManual();
    const round = async (n: number) => {
      await service.callWithDelay(Once, n, 0);
      expect(await control.runDue()).toMatchObject({ started: 1, completed: 1 });
    };
    // What is there for good comes with the first: the app's pool, and what Node makes when it is first used.
    for (let n = 0; n < 5; n++) await round(n);
    const listeners = () => process.eventNames().reduce((sum, name) => sum + process.listenerCount(name), 0);
    const before = { resources: resources(), listeners: listeners(), traces: await traces() };
    for (let n = 0; n < 50; n++) await round(n);
    await until(async () => resources() <= before.resources, 'no more sockets and timers than before');
    expect(listeners()).toBe(before.listeners);
    expect(await traces()).toEqual(NO_TRACES);
    expect(before.traces).toEqual(NO_TRACES);
  });

  it('twice at once shares the work, in one process and in two', async () => {
    const one = await bootManual({ concurrency: 1 });
    const two = await bootManual({ concurrency: 1 });
    for (const other of [one, two]) {
      runs.length = 0;
      // Each of them runs one, and only together they come to an end.
      during = () => until(async () => runs.length === 2, 'both run');
      await one.service.callMany([
        { handler: Once, data: 'a', delay: 0 },
        { handler: Once, data: 'b', delay: 0 },
      ]);
      const results = await Promise.all([one.control.runDue(), other.control.runDue()]);
      expect(results.map(({ started, completed }) => ({ started, completed }))).toEqual([
        { started: 1, completed: 1 },
        { started: 1, completed: 1 },
      ]);
    }
  });

  it('shares the work with an engine that runs, too', async () => {
    const { app, service } = await bootApp(database, { providers: [Once], options: { concurrency: 1 } });
    during = () => until(async () => runs.length === 2, 'both run');
    await service.callMany([
      { handler: Once, data: 'a', delay: 0 },
      { handler: Once, data: 'b', delay: 0 },
    ]);
    expect(await app.get(FutureCallControl).runDue()).toMatchObject({ started: 1, completed: 1 });
  });

  it('goes on when its session breaks in the middle', async () => {
    const { control, service } = await bootManual({ rescueAfter: 1_000 });
    during = async (data) => {
      if (data !== 'breaks') return;
      await service.callWithDelay(Once, 'after', 0);
      await endSessions();
    };
    await service.callWithDelay(Once, 'breaks', 0);
    expect(await control.runDue()).toEqual({ ...NOTHING, started: 2, completed: 2, nextDueAt: null });
    expect(runs).toEqual(['breaks', 'after']);
    expect(await traces()).toEqual(NO_TRACES);
  });

  it('waits for attempts that may be made at once: how the last one ended is recorded before it looks again', async () => {
    const { control, service } = await bootManual();
    during = async () => {
      throw new Error('on purpose');
    };
    for (let round = 0; round < 20; round++) {
      await service.callWithDelay(Often, round, 0);
      expect(await control.runDue()).toEqual({
        ...NOTHING,
        started: 5,
        retried: 4,
        failed: 1,
        nextDueAt: null,
      });
    }
  });

  it('tries again what the database refuses once: a claim, and the end of an attempt', async () => {
    const { control, service } = await bootManual({ concurrency: 1, prefetch: false });
    await service.callMany(Array.from({ length: 3 }, (_, n) => ({ handler: Twice, data: n, delay: 0 })));
    during = async (data, { attempt }) => {
      if (data === 1 && attempt === 1) throw new Error('on purpose');
    };
    await database.query(`
      create sequence claims; create sequence ends;
      create function refuse() returns trigger language plpgsql as $$
        begin
          if nextval(tg_argv[0]::regclass) = 2 then raise deadlock_detected; end if;
          return coalesce(new, old);
        end $$;
      create trigger refuse_claim before insert on future_call_running for each row execute function refuse('public.claims');
      create trigger refuse_end before delete on future_call_running for each row execute function refuse('public.ends')`);
    try {
      const ran = { ...NOTHING, started: 4, completed: 3, retried: 1, nextDueAt: null };
      expect(await control.runDue()).toEqual(ran);
    } finally {
      await database.query(`
        drop trigger refuse_claim on future_call_running; drop trigger refuse_end on future_call_running;
        drop function refuse(); drop sequence claims, ends`);
    }
  });

  it('goes on when it was taken for dead with calls that had not started', async () => {
    const { control, service } = await bootManual({ concurrency: 1, rescueAfter: 500 });
    const isLost = new Promise<void>((resolve) =>
      service.events.subscribe(({ type }) => type === 'disconnected' && resolve()),
    );
    // The first ones are fast, so that the others are claimed ahead.
    await service.callMany(Array.from({ length: 60 }, (_, n) => ({ handler: Once, data: n, delay: 0 })));
    let isDone = false;
    during = async () => {
      const claimed = await database.query('select from future_call_running');
      if (isDone || claimed.length < 2) return;
      isDone = true;
      // As a rescuer does that gives all of it away.
      await database.query('delete from future_call_running; delete from future_call_instance');
      await endSessions();
      await isLost;
    };
    expect(await control.runDue()).toMatchObject({ nextDueAt: null });
    expect(isDone).toBe(true);
    expect(await database.query('select from future_call')).toEqual([]);
    expect(await traces()).toEqual(NO_TRACES);
  });

  it('interrupts nothing that becomes due while it makes sure of the others', async () => {
    const { control, service } = await bootManual({ rescueAfter: 2_000, shutdownTimeout: 0 });
    await database.query(`insert into future_call_instance (id, host, pid, poll_interval, handlers)
      values (1000000, 'gone', 1, 1000, '{}')`);
    await service.callWithDelay(Once, 'slow', 500);
    const isGone = async () =>
      (await database.query('select from future_call_instance where id = 1000000')).length === 0;
    during = async () => {
      await until(isGone, 'the dead one is rescued');
      await database.query('select pg_sleep(0.2)');
    };
    expect(await control.runDue()).toEqual({ ...NOTHING, started: 1, completed: 1, nextDueAt: null });
  });

  it('does not wait for ever for an instance that cannot be rescued', async () => {
    const logger = new LogLines();
    const { control } = await bootManual({ rescueAfter: 500 }, { logger });
    await database.query(`
      insert into future_call_instance (id, host, pid, poll_interval, handlers) values (7, 'gone', 1, 1000, '{}');
      insert into future_call_running (id, name, due_at, attempt, instance_id, claim, created_at)
      values (70, 'once', now(), 1, 7, 1, now());
      create function refuse() returns trigger language plpgsql as $$ begin raise 'not today'; end $$;
      create trigger refuse before insert on future_call_outcome execute function refuse()`);
    try {
      expect(await control.runDue()).toEqual({ ...NOTHING, nextDueAt: null });
      expect(logger.warnings.join('\n')).toMatch(
        /Rescuing instance 7 .* fails, and is tried again: .*not today/,
      );
    } finally {
      await database.query('drop trigger refuse on future_call_outcome; drop function refuse()');
    }
  });

  it('answers although old outcomes cannot be deleted', async () => {
    const { control, service } = await bootManual({ retention: { failed: '1 day' } });
    await database.query(`
      insert into future_call_outcome (call_id, name, due_at, attempt, outcome, created_at, finished_at)
      values (1, 'x', now(), 1, 'failed', now(), now() - interval '2 days');
      create function refuse() returns trigger language plpgsql as $$ begin raise 'not today'; end $$;
      create trigger refuse before delete on future_call_outcome execute function refuse()`);
    try {
      await service.callWithDelay(Once, null, 0);
      expect(await control.runDue()).toEqual({ ...NOTHING, started: 1, completed: 1, nextDueAt: null });
    } finally {
      await database.query('drop trigger refuse on future_call_outcome; drop function refuse()');
    }
  });

  describe('with a pool of one connection', () => {
    const ONE = { typeorm: { poolSize: 1 } };

    it('says what is wrong inside of a transaction, when `for` is over or it is stopped', async () => {
      const { control, dataSource } = await bootManual({}, ONE);
      await dataSource.transaction(async () => {
        await expect(control.runDue({ for: 1_500 })).rejects.toThrow('its for, 1500 ms, was over before');
        const [refusal] = await Promise.allSettled([control.runDue(), control.stop()]);
        expect(refusal).toMatchObject({
          status: 'rejected',
          reason: expect.objectContaining({ message: expect.stringMatching(/was stopped before/) }),
        });
      });
    });

    it('answers although a handler that was cut off still holds it', async () => {
      const { control, service, dataSource } = await bootManual({ shutdownTimeout: 0 }, ONE);
      let release!: () => void;
      const released = new Promise<void>((resolve) => (release = resolve));
      during = () => dataSource.transaction(() => released);
      await service.callWithDelay(Once, null, 0);
      await expect(control.runDue({ for: 1_500 })).resolves.toEqual({
        ...NOTHING,
        started: 1,
        interrupted: 1,
        nextDueAt: null,
      });
      release();
    });
  });

  it.each(['stop() is called', '`for` is over'])(
    'starts nothing when %s while it becomes an instance',
    async (how) => {
      const { control, service } = await bootManual();
      const { dueAt } = await service.callWithDelay(Once, null, 0);
      const locker = await database.pool.connect();
      try {
        await locker.query('begin; lock table future_call_instance in share mode');
        const result = control.runDue(how.startsWith('stop') ? {} : { for: 1_500 });
        await until(
          async () =>
            (
              await database.query(`select from pg_stat_activity where datname = current_database()
              and application_name like 'future-call instance%' and wait_event_type = 'Lock'`)
            ).length > 0,
          'it registers',
        );
        const over = how.startsWith('stop')
          ? control.stop()
          : database.query('select pg_sleep(2)').then(() => {});
        if (!how.startsWith('stop')) await over;
        await locker.query('rollback');
        await over;
        expect(await result).toEqual({ ...NOTHING, nextDueAt: dueAt });
        expect(runs).toEqual([]);
        expect(await traces()).toEqual(NO_TRACES);
      } finally {
        locker.release();
      }
    },
  );

  it('throws why claiming fails, and leaves nothing', async () => {
    const { control, service } = await bootManual();
    await service.callWithDelay(Once, null, 0);
    await database.query(`
      create function refuse() returns trigger language plpgsql as $$ begin raise 'not today'; end $$;
      create trigger refuse before insert on future_call_running execute function refuse()`);
    try {
      await expect(control.runDue()).rejects.toThrow('not today');
      expect(await traces()).toEqual(NO_TRACES);
    } finally {
      await database.query('drop trigger refuse on future_call_running; drop function refuse()');
    }
    expect(await control.runDue()).toMatchObject({ started: 1 });
  });

  it('stays until the calls of a dead instance have been rescued, and says when those are due that may be tried again', async () => {
    const { control } = await bootManual({ rescueAfter: 500 });
    await database.query(`
      insert into future_call_instance (id, host, pid, poll_interval, handlers) values (7, 'gone', 1, 1000, '{ "once": 1, "twice": 2 }');
      insert into future_call_running (id, name, due_at, attempt, instance_id, claim, created_at)
      values (70, 'once', now(), 1, 7, 1, now()), (71, 'twice', now(), 1, 7, 1, now()), (80, 'once', now(), 1, 8, 1, now())`);
    const { nextDueAt, ...counts } = await control.runDue();
    expect(counts).toEqual({ ...NOTHING, rescued: 3 });
    expect(await database.query('select id, due_at from future_call')).toEqual([
      { id: '71', due_at: nextDueAt },
    ]);
    expect(await database.query('select call_id, outcome from future_call_outcome order by 1')).toEqual([
      { call_id: '70', outcome: 'interrupted' },
      { call_id: '80', outcome: 'interrupted' },
    ]);
    expect(await traces()).toEqual(NO_TRACES);
  });

  it('leaves the process its breath when the session is away while a dead instance is judged', async () => {
    const proxy = await PostgresProxy.start(database.url);
    try {
      const { control, service } = await bootManual({
        sessionUrl: proxy.url(database.url),
        rescueAfter: 1_000,
      });
      await database.query(`insert into future_call_instance (id, host, pid, poll_interval, handlers)
        values (7, 'gone', 1, 1000, '{}')`);
      await service.callWithDelay(Once, 'limit', 0);
      // With the limit reached there is nothing to claim, and nothing else to wait for.
      const result = control.runDue({ limit: 1 });
      await until(
        async () =>
          (await database.query('select from future_call_running')).length === 0 && runs.length === 1,
        'its end is recorded',
      );
      const accepted = proxy.accepted;
      proxy.refuses = true;
      proxy.cut();
      await until(async () => proxy.accepted > accepted + 6, 'the session is away for several looks');
      proxy.refuses = false;
      expect(await result).toMatchObject({ ...NOTHING, started: 1, completed: 1 });
      expect(await database.query('select from future_call_instance')).toEqual([]);
    } finally {
      await proxy.close();
    }
  });

  it('does not wait for ever for looks that are refused', async () => {
    const logger = new LogLines();
    const { control } = await bootManual({ rescueAfter: 500 }, { logger });
    await database.query(`insert into future_call_instance (id, host, pid, poll_interval, handlers)
      values (7, 'gone', 1, 1000, '{}')`);
    const result = control.runDue();
    await until(async () => (await traces()).instances === 2, 'it is registered');
    await database.query('alter table future_call_instance rename column host to renamed');
    try {
      expect(await result).toEqual({ ...NOTHING, nextDueAt: null });
    } finally {
      await database.query('alter table future_call_instance rename column renamed to host');
    }
    expect(logger.warnings).toContainEqual(expect.stringMatching(/^Looking for dead instances fails.*host/));
  });

  it('says so when `for` is over while it connects, and ends at once when it is stopped then', async () => {
    // It takes connections, and never answers.
    const accepted: Socket[] = [];
    const silent = createServer((socket) => accepted.push(socket)).listen(0, '127.0.0.1');
    await once(silent, 'listening');
    try {
      const { port } = silent.address() as AddressInfo;
      const { control, service } = await bootManual({
        sessionUrl: `postgres://127.0.0.1:${port}/nowhere`,
      });
      const { dueAt } = await service.callWithDelay(Once, null, 0);
      await expect(control.runDue({ for: 1_500 })).rejects.toThrow(
        'was over before it had a connection of its own',
      );
      const result = control.runDue();
      await until(async () => accepted.length === 2, 'it connects');
      await control.stop();
      expect(await result).toEqual({ ...NOTHING, nextDueAt: dueAt });
      expect(runs).toEqual([]);
    } finally {
      for (const socket of accepted) socket.destroy();
      silent.close();
    }
  });

  it('says so when `for` is too short to be sure of a dead instance', async () => {
    const logger = new LogLines();
    const { control } = await bootManual({ rescueAfter: '5m' }, { logger });
    await database.query(`insert into future_call_instance (id, host, pid, poll_interval, handlers)
      values (1000000, 'gone', 1, 1000, '{}')`);
    expect(await control.runDue({ for: 1_500 })).toEqual({ ...NOTHING, nextDueAt: null });
    expect(logger.warnings).toEqual([
      expect.stringMatching(/after 1500 ms, too soon to be sure that instance 1000000 is dead/),
    ]);
  });

  it('is rescued as any instance when its process is killed in the middle', async () => {
    await database.query('create table started (call_id bigint, attempt int, pid int)');
    const { control, service } = await bootManual({ rescueAfter: 500, unknownNames: 'accept' });
    const killed = spawnApp('calls-app', {
      env: {
        DATABASE_URL: database.url,
        FUTURE_CALL_OPTIONS: JSON.stringify({ execute: 'manual', rescueAfter: 500 }),
      },
    });
    await killed.waitFor('ready');
    const { id } = await service.callWithDelay('hold', null, 0);
    killed.send({ type: 'runDue' });
    await killed.waitFor('holding');
    await killed.kill();
    expect(await control.runDue()).toEqual({ ...NOTHING, rescued: 1, nextDueAt: null });
    expect(await database.query('select call_id, outcome, pid from future_call_outcome')).toEqual([
      { call_id: id, outcome: 'interrupted', pid: killed.pid },
    ]);
    expect(await database.query('select call_id from started')).toEqual([{ call_id: id }]);
    expect(await traces()).toEqual(NO_TRACES);
  });

  it('deletes a batch of outcomes that were kept long enough', async () => {
    const { control } = await bootManual({ retention: { failed: '1 day', completed: true } });
    await database.query(`
      insert into future_call_outcome (call_id, name, due_at, attempt, outcome, created_at, finished_at)
      select n, 'x', now(), 1, case n % 2 when 0 then 'failed' else 'completed' end, now(), now() - interval '2 days'
      from generate_series(1, 2400) n`);
    const left = async () =>
      (
        await database.query('select outcome, count(*)::int from future_call_outcome group by 1 order by 1')
      ).map((row) => Object.values(row));
    await control.runDue();
    expect(await left()).toEqual([
      ['completed', 1200],
      ['failed', 200],
    ]);
    await control.runDue();
    expect(await left()).toEqual([['completed', 1200]]);
  });

  it('ends with the app: what runs may finish, and the answer comes', async () => {
    let finish!: () => void;
    during = () => new Promise<void>((resolve) => (finish = resolve));
    const { control, service, close } = await bootManual();
    await service.callWithDelay(Once, 'runs', 0);
    const result = control.runDue();
    await until(async () => runs.length === 1, 'it runs');
    const closed = close();
    finish();
    await closed;
    await expect(control.runDue()).rejects.toThrow(FutureCallSessionError);
    await expect(control.start()).rejects.toThrow('comes too late: the app is closing');
    expect(await result).toEqual({ ...NOTHING, started: 1, completed: 1, nextDueAt: null });
    expect(await traces()).toEqual(NO_TRACES);
  });

  it('runs handlers outside of the context of who asks', async () => {
    const storage = new AsyncLocalStorage<string>();
    const seen: unknown[] = [];
    during = async () => seen.push(storage.getStore());
    const { control, service } = await bootManual();
    await service.callWithDelay(Once, 1, 0);
    await storage.run('transaction', () => control.runDue());
    await storage.run('transaction', () => control.start());
    await service.callWithDelay(Once, 2, 0);
    await until(async () => seen.length === 2, 'both have run');
    expect(seen).toEqual([undefined, undefined]);
  });
});

describe('what is refused', () => {
  it('is running calls before the app has booted: more handlers may be found', async () => {
    const refusals: Error[] = [];
    @Injectable()
    class Hasty implements OnModuleInit, OnApplicationBootstrap {
      constructor(private readonly early: FutureCallControl) {}
      async onModuleInit() {
        await this.early.runDue().catch((error: Error) => refusals.push(error));
      }
      async onApplicationBootstrap() {
        await this.early.start().catch((error: Error) => refusals.push(error));
      }
    }
    const { control, service } = await bootManual({}, { providers: [Hasty, Once] });
    expect(refusals.map(({ name, message }) => `${name}: ${message}`)).toEqual([
      expect.stringMatching(
        /^FutureCallSessionError: .*runDue\(\) comes too early.* Call it after app\.init\(\)/,
      ),
      expect.stringMatching(/^FutureCallSessionError: .*start\(\) comes too early/),
    ]);
    await service.callWithDelay(Once, null, 0);
    expect(await control.runDue()).toMatchObject({ started: 1 });
  });

  it('is running calls with execute: false, with the cure', async () => {
    const { app } = await bootApp(database, { providers: [Once], options: { execute: false } });
    const control = app.get(FutureCallControl);
    for (const refused of [control.start(), control.runDue()]) {
      await expect(refused).rejects.toThrow(FutureCallOptionsError);
      await expect(refused).rejects.toThrow(`Set execute: 'manual'`);
    }
    // Before anything is said of the options.
    await expect(control.runDue({ handlers: ['nobody'] })).rejects.toThrow(`Set execute: 'manual'`);
    await control.stop();
  });
});

/** How many sockets and timers keep this process alive. */
function resources(): number {
  return process.getActiveResourcesInfo().filter((resource) => /TCP|Pipe|Timeout|Immediate/.test(resource))
    .length;
}
