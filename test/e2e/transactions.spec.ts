import { Injectable, Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { getDataSourceToken, InjectDataSource, TypeOrmModule } from '@nestjs/typeorm';
import {
  ClsPluginTransactional,
  InjectTransaction,
  Transactional as ClsTransactional,
  TransactionHost,
} from '@nestjs-cls/transactional';
import { TransactionalAdapterTypeOrm } from '@nestjs-cls/transactional-adapter-typeorm';
import { ClsModule, ClsService } from 'nestjs-cls';
import { DataSource, EntityManager, QueryFailedError } from 'typeorm';
import {
  addTransactionalDataSource,
  deleteDataSourceByName,
  initializeTransactionalContext,
  Propagation,
  runInTransaction,
  runOnTransactionCommit,
  StorageDriver,
  Transactional,
} from 'typeorm-transactional';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import {
  FutureCall,
  FutureCallEntity,
  FutureCallModule,
  FutureCallOptionsError,
  FutureCallService,
  type FutureCallContext,
  type ScheduledFutureCall,
} from '../../lib/index.js';
import { bootApp, createTables } from '../support/app.js';
import { createDatabase, type TestDatabase } from '../support/database.js';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
  await createTables(database);
  await database.query('create table signups (email text primary key)');
});
beforeEach(() => database.query('truncate future_call, future_call_running, future_call_outcome, signups'));
afterAll(() => database.drop());

let got: { data: unknown; call: FutureCallContext }[] = [];
let arrived = () => {};
beforeEach(() => {
  got = [];
});
async function next() {
  while (got.length === 0) await new Promise<void>((resolve) => (arrived = resolve));
  return got.shift()!;
}

/** A promise, and what resolves it. */
function signal<T>() {
  let resolve!: (value: T) => void;
  const promise = new Promise<T>((done) => (resolve = done));
  return { promise, resolve };
}

@FutureCall('welcome')
class Welcome {
  invoke(data: unknown, call: FutureCallContext) {
    got.push({ data, call });
    arrived();
  }
}

/** Nobody looks at the tables by himself for an hour: only a notification or a wake brings a call to its handler. */
const PATIENT = { pollInterval: '1h' };

const boot = (more: Parameters<typeof bootApp>[1] = {}) =>
  bootApp(database, { providers: [Welcome], options: PATIENT, ...more });

const bootScheduler = (more: Parameters<typeof bootApp>[1] = {}) =>
  bootApp(database, { providers: [Welcome], options: { execute: false }, ...more });

const pending = () => database.query('select data from future_call order by id');
const signups = () => database.query('select email from signups');
const signUp = (manager: EntityManager, email = 'a@b.c') =>
  manager.query('insert into signups values ($1)', [email]);

const rollBack = new Error('roll back');

describe('a call that is scheduled with the manager of a transaction', () => {
  it('exists if the transaction commits, and runs then without delay', async () => {
    const { service, dataSource } = await boot();
    await dataSource.transaction(async (manager) => {
      await signUp(manager);
      await service.callWithDelay(Welcome, 1, 0, { manager });
      await service.callAtTime('welcome', 2, new Date(0), { manager });
      // Nobody else sees it yet.
      expect(await pending()).toEqual([]);
    });
    expect(await signups()).toHaveLength(1);
    expect(new Set([(await next()).data, (await next()).data])).toEqual(new Set([1, 2]));
  });

  it('runs without delay in another process, too', async () => {
    const scheduler = await bootScheduler();
    await boot();
    await scheduler.dataSource.transaction((manager) =>
      scheduler.service.callWithDelay(Welcome, 1, 0, { manager }),
    );
    expect((await next()).data).toBe(1);
  });

  it('does not exist if the transaction is rolled back', async () => {
    const { service, dataSource } = await boot();
    const transaction = dataSource.transaction(async (manager) => {
      await signUp(manager);
      await service.callWithDelay(Welcome, 1, 0, { manager });
      throw rollBack;
    });
    await expect(transaction).rejects.toBe(rollBack);
    expect(await pending()).toEqual([]);
    expect(await signups()).toEqual([]);
    await service.callWithDelay(Welcome, 2, 0);
    expect((await next()).data).toBe(2);
  });

  it('goes with its savepoint', async () => {
    const { service, dataSource } = await bootScheduler();
    await dataSource.transaction(async (manager) => {
      await service.callWithDelay(Welcome, 'outer', 0, { manager });
      await manager
        .transaction(async (nested) => {
          await service.callWithDelay(Welcome, 'inner', 0, { manager: nested });
          throw rollBack;
        })
        .catch(() => {});
      await manager.transaction((nested) => service.callWithDelay(Welcome, 'kept', 0, { manager: nested }));
    });
    expect(await pending()).toEqual([{ data: 'outer' }, { data: 'kept' }]);
  });

  it('exists with that of a query runner, or of a repository', async () => {
    const { service, dataSource } = await boot();
    const runner = dataSource.createQueryRunner();
    await runner.startTransaction('SERIALIZABLE');
    await service.callWithDelay(Welcome, 1, 0, { manager: runner.manager });
    const { manager } = runner.manager.getRepository(FutureCallEntity);
    await service.callWithDelay(Welcome, 2, 0, { manager });
    expect(await pending()).toEqual([]);
    await runner.commitTransaction();
    await runner.release();
    expect(new Set([(await next()).data, (await next()).data])).toEqual(new Set([1, 2]));
  });

  it('runs without delay when the transaction was begun in SQL, of which TypeORM knows nothing', async () => {
    const { service, dataSource } = await boot();
    const runner = dataSource.createQueryRunner();
    await runner.query('begin');
    await service.callWithDelay(Welcome, 1, 0, { manager: runner.manager });
    expect(await pending()).toEqual([]);
    await runner.query('commit');
    await runner.release();
    expect((await next()).data).toBe(1);
  });

  it('is due a delay after the moment of the call, not after the beginning of the transaction', async () => {
    const { service, dataSource } = await bootScheduler();
    await dataSource.transaction(async (manager) => {
      const [{ begun }] = await manager.query<[{ begun: Date }]>('select now() as begun');
      const [{ later }] = await manager.query<[{ later: Date }]>(
        'select pg_sleep(0.1), clock_timestamp() as later',
      );
      const { dueAt } = await service.callWithDelay(Welcome, 1, '1h', { manager });
      expect(later.getTime()).toBeGreaterThanOrEqual(begun.getTime() + 100);
      expect(dueAt.getTime()).toBeGreaterThanOrEqual(later.getTime() + 3_600_000);
    });
  });

  it('may be scheduled with the manager that every data source has, outside of a transaction', async () => {
    const { service, dataSource } = await boot();
    await service.callWithDelay(Welcome, 1, 0, { manager: dataSource.manager });
    expect((await next()).data).toBe(1);
  });
});

describe('cancelling with the manager of a transaction', () => {
  it('takes effect if the transaction commits', async () => {
    const { service, dataSource } = await bootScheduler();
    await service.callWithDelay(Welcome, 1, '1h', { identifier: 'x' });
    await dataSource.transaction(async (manager) => {
      await service.callWithDelay(Welcome, 2, '1h', { identifier: 'x', manager });
      // Its own call, and the one that was there.
      expect(await service.cancel('x', { manager })).toBe(2);
      expect(await pending()).toEqual([{ data: 1 }]);
    });
    expect(await pending()).toEqual([]);
  });

  it('does not if it is rolled back', async () => {
    const { service, dataSource } = await bootScheduler();
    await service.callWithDelay(Welcome, 1, '1h', { identifier: 'x' });
    const transaction = dataSource.transaction(async (manager) => {
      expect(await service.cancel('x', { manager })).toBe(1);
      throw rollBack;
    });
    await expect(transaction).rejects.toBe(rollBack);
    expect(await pending()).toEqual([{ data: 1 }]);
    expect(await service.cancel('x')).toBe(1);
  });

  it('replaces calls: signing up again leaves one set of them', async () => {
    const { service, dataSource } = await bootScheduler();
    for (const round of [1, 2]) {
      await dataSource.transaction(async (manager) => {
        await service.cancel('a@b.c', { manager });
        for (const mail of ['first', 'second']) {
          await service.callWithDelay(Welcome, { mail, round }, '1d', { identifier: 'a@b.c', manager });
        }
      });
    }
    expect(await pending()).toEqual([
      { data: { mail: 'first', round: 2 } },
      { data: { mail: 'second', round: 2 } },
    ]);
  });
});

describe('a manager', () => {
  it('of another data source is refused', async () => {
    const { service } = await bootScheduler();
    const other = await new DataSource({ type: 'postgres', url: database.url }).initialize();
    onTestFinished(() => other.destroy());
    await other.transaction(async (manager) => {
      for (const attempt of [
        () => service.callWithDelay(Welcome, 1, 0, { manager }),
        () => service.callAtTime(Welcome, 1, new Date(), { manager }),
        () => service.callMany([{ handler: Welcome, delay: 0 }], { manager }),
        () => service.cancel('x', { manager }),
      ]) {
        await expect(attempt()).rejects.toThrow(FutureCallOptionsError);
        await expect(attempt()).rejects.toThrow(/belongs to another data source/);
      }
    });
    expect(await pending()).toEqual([]);
  });

  it('whose transaction is over is refused: somebody did not await', async () => {
    const { service, dataSource } = await bootScheduler();
    const manager = await dataSource.transaction(async (own) => own);
    await expect(service.callWithDelay(Welcome, 1, 0, { manager })).rejects.toThrow(FutureCallOptionsError);
    await expect(service.cancel('x', { manager })).rejects.toThrow(/transaction is over\. Await/);
  });
});

describe('an error of the database', () => {
  it('comes as TypeORM throws it: a serialization failure can be retried', async () => {
    const { service, dataSource } = await bootScheduler();
    await service.callWithDelay(Welcome, 1, '1h', { identifier: 'x' });
    const runner = dataSource.createQueryRunner();
    await runner.startTransaction('REPEATABLE READ');
    await runner.query('select from future_call');
    expect(await service.cancel('x')).toBe(1);
    const error = await service.cancel('x', { manager: runner.manager }).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(QueryFailedError);
    expect(error).toMatchObject({ driverError: { code: '40001' } });
    await runner.rollbackTransaction();
    await runner.release();
  });

  it('comes as TypeORM throws it: the transaction has failed before', async () => {
    const { service, dataSource } = await bootScheduler();
    const transaction = dataSource.transaction(async (manager) => {
      await manager.query('select 1 / 0').catch(() => {});
      await service.callWithDelay(Welcome, 1, 0, { manager });
    });
    await expect(transaction).rejects.toThrow(QueryFailedError);
    await expect(transaction).rejects.toMatchObject({ driverError: { code: '25P02' } });
  });

  it('comes as TypeORM throws it: the transaction is read-only', async () => {
    const { service, dataSource } = await bootScheduler();
    const transaction = dataSource.transaction(async (manager) => {
      await manager.query('set transaction read only');
      await service.callWithDelay(Welcome, 1, 0, { manager });
    });
    await expect(transaction).rejects.toMatchObject({ driverError: { code: '25006' } });
  });
});

describe('transactions that hold every connection of the pool', () => {
  it('and schedule without their manager wait for each other: connectTimeoutMS ends that, and manager avoids it', async () => {
    const { service, dataSource } = await bootScheduler({ typeorm: { poolSize: 2, connectTimeoutMS: 500 } });
    const both = (schedule: (manager: EntityManager) => Promise<unknown>) => {
      let waiting = 2;
      const full = signal<void>();
      const transaction = () =>
        dataSource.transaction(async (manager) => {
          await manager.query('select 1');
          if (--waiting === 0) full.resolve();
          await full.promise;
          await schedule(manager);
        });
      return Promise.allSettled([transaction(), transaction()]);
    };
    // Who gives up first lets the other one go on.
    expect(await both(() => service.callWithDelay(Welcome, 1, '1d'))).toContainEqual({
      status: 'rejected',
      reason: expect.objectContaining({ message: 'timeout exceeded when trying to connect' }),
    });
    const answers = await both((manager) => service.callWithDelay(Welcome, 2, '1d', { manager }));
    expect(answers.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled']);
  });
});

describe('typeorm-transactional', () => {
  beforeAll(() => {
    initializeTransactionalContext({ storageDriver: StorageDriver.ASYNC_LOCAL_STORAGE });
  });
  afterEach(() => {
    deleteDataSourceByName('default');
  });

  @Injectable()
  class Signup {
    constructor(
      private readonly futureCalls: FutureCallService,
      @InjectDataSource() private readonly dataSource: DataSource,
    ) {}

    /** What others see while it is open. */
    @Transactional()
    async signUp(email: string, fails = false) {
      await signUp(this.dataSource.manager, email);
      await this.futureCalls.callWithDelay(Welcome, email, 0, { identifier: email });
      await this.futureCalls.callWithDelay(Welcome, email, '1h', { identifier: 'later' });
      const cancelled = await this.futureCalls.cancel('later');
      if (fails) throw rollBack;
      return { cancelled, pending: await pending(), signups: await signups() };
    }
  }

  /** Writes in the transaction that is around it, or in none. */
  @FutureCall('witness')
  class Witness {
    constructor(@InjectDataSource() private readonly dataSource: DataSource) {}
    async invoke(email: string, call: FutureCallContext) {
      const isInTransaction = this.dataSource.manager.queryRunner !== undefined;
      await signUp(this.dataSource.manager, email);
      got.push({ data: { isInTransaction, seen: await signups() }, call });
      arrived();
    }
  }

  async function bootTransactional() {
    // As its documentation has it.
    @Module({
      imports: [
        TypeOrmModule.forRootAsync({
          useFactory: () => ({ type: 'postgres', url: database.url, autoLoadEntities: true }),
          dataSourceFactory: async (options) => addTransactionalDataSource(new DataSource(options!)),
        }),
        FutureCallModule.forRoot(PATIENT),
      ],
      providers: [Welcome, Signup, Witness],
    })
    class TransactionalModule {}

    const app = await NestFactory.createApplicationContext(TransactionalModule, { logger: false });
    onTestFinished(() => app.close());
    return { signup: app.get(Signup), service: app.get(FutureCallService) };
  }

  it('commits and rolls back what is scheduled and cancelled, without a manager', async () => {
    const { signup } = await bootTransactional();
    await expect(signup.signUp('rolled@back', true)).rejects.toBe(rollBack);
    expect(await pending()).toEqual([]);
    expect(await signups()).toEqual([]);
    expect(await signup.signUp('a@b.c')).toEqual({ cancelled: 1, pending: [], signups: [] });
    expect((await next()).data).toBe('a@b.c');
    expect(await signups()).toHaveLength(1);
  });

  it('may schedule when it has committed', async () => {
    const { service } = await bootTransactional();
    const scheduled = signal<ScheduledFutureCall>();
    await runInTransaction(async () => {
      runOnTransactionCommit(() => void service.callWithDelay(Welcome, 'after', 0).then(scheduled.resolve));
    });
    const { id } = await scheduled.promise;
    expect((await next()).call.id).toBe(id);
  });

  it('does not carry its transaction into a handler', async () => {
    const { service } = await bootTransactional();
    await runInTransaction(async () => {
      // Outside of the transaction, but in its asynchronous context.
      await runInTransaction(() => service.callWithDelay('witness', 'a@b.c', 0), {
        propagation: Propagation.NOT_SUPPORTED,
      });
      // The handler runs while the transaction is open.
      expect((await next()).data).toEqual({ isInTransaction: false, seen: [{ email: 'a@b.c' }] });
    });
    await runInTransaction(() => service.callWithDelay('witness', 'd@e.f', 0));
    expect((await next()).data).toMatchObject({ isInTransaction: false });
  });
});

describe('nestjs-cls', () => {
  @Injectable()
  class Signup {
    constructor(
      private readonly futureCalls: FutureCallService,
      private readonly host: TransactionHost<TransactionalAdapterTypeOrm>,
      @InjectTransaction() private readonly proxy: EntityManager,
    ) {}

    @ClsTransactional()
    async signUp(email: string, fails = false) {
      await signUp(this.host.tx, email);
      await this.futureCalls.callWithDelay(Welcome, email, 0, { manager: this.host.tx });
      await this.futureCalls.callWithDelay(Welcome, email, '1h', { identifier: 'x', manager: this.proxy });
      const cancelled = await this.futureCalls.cancel('x', { manager: this.proxy });
      if (fails) throw rollBack;
      return { cancelled, pending: await pending(), signups: await signups() };
    }

    @ClsTransactional()
    async schedulesOutside() {
      await this.futureCalls.callWithDelay('witness', null, 0);
      // It runs while the transaction is open.
      const { data } = await next();
      return { isInTransaction: this.host.isTransactionActive(), handler: data };
    }
  }

  @FutureCall('witness')
  class Witness {
    constructor(
      private readonly host: TransactionHost<TransactionalAdapterTypeOrm>,
      private readonly cls: ClsService,
    ) {}
    invoke(_data: unknown, call: FutureCallContext) {
      got.push({
        data: { isInTransaction: this.host.isTransactionActive(), cls: this.cls.isActive() },
        call,
      });
      arrived();
    }
  }

  const bootCls = () =>
    boot({
      imports: [
        ClsModule.forRoot({
          global: true,
          plugins: [
            new ClsPluginTransactional({
              imports: [TypeOrmModule],
              adapter: new TransactionalAdapterTypeOrm({ dataSourceToken: getDataSourceToken() }),
              enableTransactionProxy: true,
            }),
          ],
        }),
      ],
      providers: [Welcome, Signup, Witness],
    });

  it('commits and rolls back what is scheduled and cancelled with its manager, or the proxy of it', async () => {
    const { app } = await bootCls();
    const signup = app.get(Signup);
    await expect(signup.signUp('rolled@back', true)).rejects.toBe(rollBack);
    expect(await pending()).toEqual([]);
    expect(await signups()).toEqual([]);
    expect(await signup.signUp('a@b.c')).toEqual({ cancelled: 1, pending: [], signups: [] });
    expect((await next()).data).toBe('a@b.c');
  });

  it('knows nothing of a call without a manager, nor does a handler know of its transaction', async () => {
    const { app } = await bootCls();
    expect(await app.get(Signup).schedulesOutside()).toEqual({
      isInTransaction: true,
      handler: { isInTransaction: false, cls: false },
    });
  });
});
