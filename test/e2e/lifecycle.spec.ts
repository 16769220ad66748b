import { setTimeout as sleep } from 'node:timers/promises';
import {
  ConsoleLogger,
  Global,
  Injectable,
  Module,
  type DynamicModule,
  type ModuleMetadata,
  type OnApplicationBootstrap,
  type OnModuleDestroy,
  type OnModuleInit,
  type Type,
} from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { TypeOrmModule } from '@nestjs/typeorm';
import { DataSource } from 'typeorm';
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import {
  FutureCall,
  FutureCallModule,
  FutureCallService,
  type FutureCallContext,
  type FutureCallModuleOptions,
} from '../../lib/index.js';
import { bootApp, createTables } from '../support/app.js';
import { createDatabase, type TestDatabase } from '../support/database.js';
import { engineOf } from '../support/engine.js';
import { LogLines } from '../support/log-lines.js';
import { spawnApp } from '../support/processes.js';
import { until } from '../support/until.js';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
  await createTables(database);
});
beforeEach(() => database.query('truncate future_call, future_call_running, future_call_outcome'));
afterAll(() => database.drop());

const typeOrm = () =>
  TypeOrmModule.forRoot({ type: 'postgres', url: database.url, autoLoadEntities: true, retryAttempts: 0 });

/** Connections to the database that are not the test's own. */
const connections = () =>
  database.query<{ application_name: string; state: string }>(
    `select application_name, state from pg_stat_activity
     where datname = current_database() and application_name <> 'test' and backend_type = 'client backend'`,
  );
const noConnections = () =>
  until(async () => (await connections()).length === 0, 'every connection of the app is closed');
const instances = () => database.query('select id from future_call_instance');

/** A promise, and what resolves it. */
interface Signal<T> {
  promise: Promise<T>;
  resolve: (value: T) => void;
}
function signal<T = void>(): Signal<T> {
  let resolve!: (value: T) => void;
  const promise = new Promise<T>((done) => (resolve = done));
  return { promise, resolve };
}

describe('while the app closes, a handler can use what it injects, and the data source', () => {
  let closed: string[];
  let started: Signal<void>;
  let release: Signal<void>;
  let result: Signal<unknown>;
  beforeEach(() => {
    closed = [];
    started = signal();
    release = signal();
    result = signal();
  });

  /** Closes itself as early as Nest lets it. */
  class Resource implements OnModuleDestroy {
    onModuleDestroy() {
      closed.push(this.constructor.name);
    }
  }
  @Injectable()
  class Deep extends Resource {}
  @Module({ providers: [Deep], exports: [Deep] })
  class DeepModule {}

  @Injectable()
  class Worldwide extends Resource {}
  @Global()
  @Module({ providers: [Worldwide], exports: [Worldwide] })
  class GlobalModule {}

  @Injectable()
  class Near extends Resource {}

  @FutureCall('lasting')
  class Lasting {
    constructor(
      private readonly dataSource: DataSource,
      private readonly futureCalls: FutureCallService,
      readonly near: Near,
      readonly deep: Deep,
      readonly worldwide: Worldwide,
    ) {}
    async invoke(_data: unknown, call: FutureCallContext) {
      started.resolve();
      await release.promise;
      const isConnected = await this.dataSource.query('select 1 as one');
      await this.futureCalls.callWithDelay(Lasting, 'again', '1h');
      result.resolve({ isConnected, closed: [...closed], aborted: call.signal.aborted });
    }
  }
  @Module({ imports: [DeepModule], providers: [Lasting, Near] })
  class FeatureModule {}

  @Injectable()
  class Root extends Resource {}

  const parts: Record<string, () => DynamicModule | Type> = {
    TypeORM: typeOrm,
    FutureCall: () => FutureCallModule.forRoot(),
    Feature: () => FeatureModule,
    Global: () => GlobalModule,
  };
  const names = Object.keys(parts);
  const orders = names.flatMap((_, i) => {
    const rotated = [...names.slice(i), ...names.slice(0, i)];
    return [rotated.join(', '), rotated.toReversed().join(', ')];
  });

  async function closeWhileItRuns(imports: ModuleMetadata['imports']) {
    @Module({ imports: imports!, providers: [Root] })
    class AppModule {}
    const drains = signal();
    const logger = new ConsoleLogger();
    logger.log = (message: string) => {
      if (message.startsWith('Waiting for 1 call to finish')) drains.resolve();
    };
    const app = await NestFactory.createApplicationContext(AppModule, { logger, abortOnError: false });
    onTestFinished(() => app.close());
    await app.get(FutureCallService).callWithDelay(Lasting, null, 0);
    await started.promise;
    const done = app.close();
    await drains.promise;
    release.resolve();
    expect(await result.promise).toEqual({ isConnected: [{ one: 1 }], closed: [], aborted: false });
    await done;
    expect(new Set(closed)).toEqual(new Set(['Near', 'Deep', 'Worldwide', 'Root']));
    expect(await database.query('select name from future_call_running')).toEqual([]);
    expect(await database.query('select outcome from future_call_outcome')).toEqual([]);
    expect(await database.query('select data from future_call')).toEqual([{ data: 'again' }]);
  }

  it.each(orders)('with the imports %s', (order) =>
    closeWhileItRuns(order.split(', ').map((name) => parts[name]!())),
  );

  it('with FutureCallModule deep in the tree of imports', async () => {
    @Module({ imports: [FutureCallModule.forRoot()] })
    class InnerModule {}
    @Module({ imports: [InnerModule, typeOrm()] })
    class InfrastructureModule {}
    await closeWhileItRuns([InfrastructureModule, GlobalModule, FeatureModule]);
  });
});

describe('starting', () => {
  it('waits until the whole app has booted', async () => {
    const order: string[] = [];
    const ran = signal();
    @FutureCall('early')
    class Early {
      invoke() {
        order.push('call');
        ran.resolve();
      }
    }
    @Injectable()
    class Scheduler implements OnModuleInit, OnApplicationBootstrap {
      constructor(
        private readonly futureCalls: FutureCallService,
        private readonly dataSource: DataSource,
      ) {}
      async onModuleInit() {
        await this.futureCalls.callWithDelay(Early, null, 0);
        // Time enough for one that has started already.
        await this.dataSource.query('select pg_sleep(0.1)');
        order.push('initialized');
      }
      async onApplicationBootstrap() {
        await this.dataSource.query('select pg_sleep(0.1)');
        order.push('bootstrapped');
      }
    }
    await bootApp(database, { providers: [Early, Scheduler] });
    await ran.promise;
    expect(order).toEqual(['initialized', 'bootstrapped', 'call']);
  });

  it('works again after closing, in the same process', async () => {
    for (let round = 1; round <= 3; round++) {
      const ran = signal<unknown>();
      @FutureCall('again')
      class Again {
        invoke(data: unknown) {
          ran.resolve(data);
        }
      }
      const { service, close } = await bootApp(database, { providers: [Again] });
      await service.callWithDelay(Again, round, 0);
      expect(await ran.promise).toBe(round);
      await close();
    }
    expect(await instances()).toEqual([]);
  });
});

describe('closing', () => {
  it.each([[{}], [{ execute: false }]])('at once leaves nothing: %j', async (options) => {
    const { close } = await bootApp(database, { options });
    await close();
    await noConnections();
    expect(await instances()).toEqual([]);
  });

  it('may be asked for twice, one after the other and at one time', async () => {
    const { app } = await bootApp(database);
    await Promise.all([app.close(), app.close()]);
    await app.close();
    await noConnections();
    expect(await instances()).toEqual([]);
  });

  it('does not lose what a handler schedules meanwhile', async () => {
    const started = signal();
    const release = signal();
    @FutureCall('chain')
    class Chain {
      constructor(private readonly futureCalls: FutureCallService) {}
      async invoke(n: number) {
        started.resolve();
        await release.promise;
        await this.futureCalls.callWithDelay(Chain, n + 1, 0);
      }
    }
    const { service, close } = await bootApp(database, { providers: [Chain] });
    await service.callWithDelay(Chain, 1, 0);
    await started.promise;
    const closed = close();
    release.resolve();
    await closed;
    expect(await database.query('select data, attempt from future_call')).toEqual([{ data: 2, attempt: 0 }]);
  });

  it('takes what ends because it was told to as interrupted, not as failed; a handler with attempts has spent none', async () => {
    let running = 0;
    const bothRun = signal();
    class Obedient {
      async invoke(_data: unknown, call: FutureCallContext) {
        if (++running === 2) bothRun.resolve();
        await sleep(3_600_000, undefined, { signal: call.signal });
      }
    }
    @FutureCall('once')
    class Once extends Obedient {}
    @FutureCall('twice', { attempts: 2 })
    class Twice extends Obedient {}
    const { service, close } = await bootApp(database, {
      providers: [Once, Twice],
      options: { shutdownTimeout: 0 },
    });
    const events: string[] = [];
    await service.callWithDelay(Once, null, 0);
    await service.callWithDelay(Twice, null, 0);
    await bothRun.promise;
    service.events.subscribe(({ type }) => events.push(type));
    await close();
    expect(events).toEqual(['interrupted', 'interrupted']);
    const why = [
      { attempt: 1, name: 'Interrupted', message: 'Its instance stopped before the call had finished.' },
    ];
    expect(await database.query('select name, outcome, errors from future_call_outcome')).toMatchObject([
      { name: 'once', outcome: 'interrupted', errors: why },
    ]);
    expect(await database.query('select name, attempt, errors from future_call')).toMatchObject([
      { name: 'twice', attempt: 0, errors: why },
    ]);
  });

  it('gives back what never started, though giving it back was refused until then', async () => {
    const stuck = signal();
    let behind = 0;
    @FutureCall('fast')
    class Fast {
      async invoke() {
        if (behind > 0) return;
        const queued = engineOf(app).slots.queuedCalls().length;
        if (queued < 50) return;
        behind = queued;
        await stuck.promise;
      }
    }
    const logger = new LogLines();
    const { app, close } = await bootApp(database, {
      providers: [Fast],
      logger,
      options: { concurrency: 1, shutdownTimeout: 0 },
    });
    await database.query(`
      insert into future_call (name, due_at) select 'fast', now() from generate_series(1, 3000);
      create function refuse() returns trigger language plpgsql as 'begin raise exception ''not now''; end';
      create trigger refuse before insert on future_call for each row execute function refuse()`);
    engineOf(app).poller.poll();
    await until(async () => logger.warnings.some((line) => line.startsWith('Giving back')), 'it was refused');
    await database.query('drop function refuse cascade');
    await close();
    stuck.resolve();
    expect(behind).toBeGreaterThan(0);
    expect(await database.query('select from future_call_running')).toEqual([]);
    // The one that ran.
    expect(await database.query('select outcome from future_call_outcome')).toEqual([
      { outcome: 'interrupted' },
    ]);
    expect(await database.query('select from future_call where attempt > 0')).toEqual([]);
  });

  it('gives back what was claimed ahead and never started, with its attempt', async () => {
    const stuck = signal();
    const release = signal();
    const ran = new Set<string>();
    @FutureCall('fast')
    class Fast {
      async invoke(data: { last?: true } | null, call: FutureCallContext) {
        ran.add(call.id);
        if (data?.last !== true) return;
        stuck.resolve();
        await release.promise;
      }
    }
    const insert = (count: number, data: unknown) =>
      database.query(
        `insert into future_call (name, data, due_at) select 'fast', $1, now() from generate_series(1, $2)`,
        [data, count],
      );
    // A few thousand fast ones, so that it claims ahead; one that holds the only slot; and some for the queue.
    await insert(3_000, null);
    await insert(1, { last: true });
    await insert(3_000, null);
    const { service, close } = await bootApp(database, { providers: [Fast], options: { concurrency: 1 } });
    await stuck.promise;
    const running = async () =>
      (await database.query<{ id: string }>('select id from future_call_running')).map(({ id }) => id);
    const released: string[] = [];
    service.events.subscribe((event) => {
      if (event.type === 'released') released.push(event.id);
    });
    const closed = close();
    await until(async () => (await running()).length === 1, 'what has not started is given back');
    release.resolve();
    await closed;
    expect(await running()).toEqual([]);
    expect(await database.query('select from future_call_outcome')).toEqual([]);
    const left = await database.query<{ id: string; attempt: number }>('select id, attempt from future_call');
    expect(released).not.toEqual([]);
    expect(new Set(released).size).toBe(released.length);
    expect(left.map(({ id }) => id)).toEqual(expect.arrayContaining(released));
    expect(left.every(({ id, attempt }) => attempt === 0 && !ran.has(id))).toBe(true);
    expect(left.length + ran.size).toBe(6_001);
  });
});

describe('a process', () => {
  const start = (options: FutureCallModuleOptions = {}) =>
    spawnApp('calls-app', {
      env: { DATABASE_URL: database.url, FUTURE_CALL_OPTIONS: JSON.stringify(options) },
    });
  beforeAll(() => database.query('create table started (call_id bigint, attempt int, pid int)'));

  it.each([[{}], [{ execute: false }], [{ pollInterval: '1h', rescueAfter: '5m' }]])(
    'ends by itself when it is closed at once: %j',
    async (options) => {
      const app = start(options);
      await app.waitFor('ready');
      app.send({ type: 'close' });
      expect(await app.exited).toEqual({ code: 0, signal: null });
      expect(await instances()).toEqual([]);
    },
  );

  it('ends by itself when it has run calls, with some still to come', async () => {
    const app = start();
    await app.waitFor('ready');
    // Late enough to be still to come, and before the next poll: the app has set a timer for it.
    app.send({ type: 'schedule', handler: 'hold', delay: 9_000 });
    app.send({ type: 'schedule', handler: 'mark', count: 20 });
    await app.waitForCount('scheduled', 2);
    await until(async () => (await database.query('select from started')).length >= 20, 'they have run');
    app.send({ type: 'close' });
    expect(await app.exited).toEqual({ code: 0, signal: null });
    expect(await instances()).toEqual([]);
  });

  it('waits for what runs when it gets SIGTERM, and ends', async () => {
    const app = start();
    await app.waitFor('ready');
    app.send({ type: 'schedule', handler: 'hold' });
    await app.waitFor('holding');
    app.signal('SIGTERM');
    await app.waitForOutput(/Waiting for 1 calls? to finish/);
    app.send({ type: 'release' });
    await app.waitFor('released');
    // Nest ends it with the signal it got.
    expect(await app.exited).toEqual({ code: null, signal: 'SIGTERM' });
    expect(await database.query('select from future_call_running')).toEqual([]);
    expect(await database.query('select from future_call_outcome')).toEqual([]);
    expect(await instances()).toEqual([]);
  });

  it.each([
    ['SIGTERM', 'SIGTERM'],
    ['SIGINT', 'SIGTERM'],
    ['close', 'SIGTERM'],
  ] as const)('goes on with its drain when it gets one more signal: %s, then %s', async (first, second) => {
    const app = start({ retention: { completed: true } });
    await app.waitFor('ready');
    app.send({ type: 'schedule', handler: 'hold' });
    await app.waitFor('holding');
    if (first === 'close') app.send({ type: 'close' });
    else app.signal(first);
    await app.waitForOutput(/Waiting for 1 calls? to finish/);
    app.send({ type: 'await', signal: second });
    await app.waitFor('awaiting');
    app.signal(second);
    await app.waitFor('signalled');
    expect(await database.query('select name from future_call_running')).toEqual([{ name: 'hold' }]);
    app.send({ type: 'release' });
    await app.waitFor('released');
    // Nest ends it with the signal it got first.
    expect(await app.exited).toEqual({ code: null, signal: first === 'close' ? second : first });
    expect(app.messages.filter(({ type }) => type === 'aborted')).toEqual([]);
    expect(app.output).toMatch(/Instance \d+ has stopped/);
    expect(app.output).not.toMatch(/warn|error|exception/i);
    expect(await database.query('select outcome from future_call_outcome')).toEqual([
      { outcome: 'completed' },
    ]);
    expect(await database.query('select from future_call_running')).toEqual([]);
    expect(await instances()).toEqual([]);
  });

  it.each([
    ['handlers', /Two handlers are named "same name"/],
    ['session', /ECONNREFUSED/],
    ['tables', /tables of future calls are missing.*and migrate is false/],
    ['app', /the app itself/],
  ])('ends by itself when its boot has failed: %s', async (failure, message) => {
    const empty = await createDatabase();
    onTestFinished(() => empty.drop());
    const app = spawnApp('failing-app', { env: { DATABASE_URL: empty.url, FAILURE: failure } });
    expect((await app.waitFor('failed')).message).toMatch(message);
    expect(await app.exited).toEqual({ code: 0, signal: null });
    expect(app.messages.at(-1)).toEqual({ type: 'closed' });
  });

  it('that Nest ends because its boot has failed says why', async () => {
    const app = start({ concurrency: 0 });
    const { code, signal: killedBy } = await app.exited;
    expect([code, killedBy]).not.toEqual([0, null]);
    expect(app.output).toMatch(
      /FutureCallOptionsError.*concurrency must be a whole number from 1 to 10000, but it is 0/s,
    );
  });
});
