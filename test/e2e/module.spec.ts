import * as net from 'node:net';
import {
  Controller,
  Injectable,
  Module,
  Post,
  type DynamicModule,
  type ModuleMetadata,
} from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { getRepositoryToken, TypeOrmModule, type TypeOrmModuleOptions } from '@nestjs/typeorm';
import pg from 'pg';
import { DataSource, TypeORMError, type Repository } from 'typeorm';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import {
  FutureCall,
  FutureCallControl,
  FutureCallEntity,
  futureCallEntities,
  FutureCallError,
  FutureCallModule,
  FutureCallOptionsError,
  FutureCallSchemaError,
  FutureCallService,
  FutureCallSessionError,
  type FutureCallModuleOptions,
  type FutureCallOptionsFactory,
} from '../../lib/index.js';
import { bootApp } from '../support/app.js';
import { createDatabase, type TestDatabase } from '../support/database.js';

let database: TestDatabase;
let other: TestDatabase;
beforeAll(async () => {
  [database, other] = await Promise.all([createDatabase(), createDatabase()]);
});
afterAll(async () => {
  await Promise.all([database.drop(), other.drop()]);
});

const typeOrm = (options: Partial<TypeOrmModuleOptions> = {}, url = database.url): DynamicModule =>
  TypeOrmModule.forRoot({
    type: 'postgres',
    url,
    autoLoadEntities: true,
    retryAttempts: 0,
    ...options,
  } as TypeOrmModuleOptions);

async function boot(metadata: ModuleMetadata) {
  @Module(metadata)
  class AppModule {}
  const app = await NestFactory.createApplicationContext(AppModule, { logger: false, abortOnError: false });
  onTestFinished(() => app.close());
  return app;
}

/** What booting throws; it must be one of our errors. */
async function bootError(metadata: ModuleMetadata | (() => ModuleMetadata)): Promise<FutureCallError> {
  const start = async () => boot(typeof metadata === 'function' ? metadata() : metadata);
  const error: unknown = await start().then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(FutureCallError);
  return error as FutureCallError;
}

/** A handler that hands over the calls it gets. */
function receiver(name: string) {
  const received: unknown[] = [];
  let wake = () => {};
  @FutureCall(name)
  class Receiver {
    invoke(data: unknown) {
      received.push(data);
      wake();
    }
  }
  const next = async () => {
    while (received.length === 0) await new Promise<void>((resolve) => (wake = resolve));
    return received.shift();
  };
  return { Receiver, next };
}

/** Whether the options arrived, by what can be seen of them: the poll interval is in the instance's row. */
const pollIntervals = async (of = database) =>
  (await of.query<{ poll_interval: number }>('select poll_interval from future_call_instance')).map(
    (row) => row.poll_interval,
  );

describe('FutureCallModule.forRoot', () => {
  it('needs no options', async () => {
    const { Receiver, next } = receiver('hello');
    const app = await boot({ imports: [typeOrm(), FutureCallModule.forRoot()], providers: [Receiver] });
    await app.get(FutureCallService).callWithDelay('hello', 'world', 0);
    expect(await next()).toBe('world');
    expect(await pollIntervals()).toEqual([10_000]);
  });

  it('takes options', async () => {
    await boot({ imports: [typeOrm(), FutureCallModule.forRoot({ pollInterval: '2s' })] });
    expect(await pollIntervals()).toEqual([2_000]);
  });

  it('can come before TypeORM', async () => {
    await boot({ imports: [FutureCallModule.forRoot({ pollInterval: 3_000 }), typeOrm()] });
    expect(await pollIntervals()).toEqual([3_000]);
  });

  it('is global: any module injects the service, and handlers live in any module', async () => {
    const { Receiver, next } = receiver('feature');
    @Injectable()
    class Feature {
      constructor(readonly futureCalls: FutureCallService) {}
    }
    @Module({ providers: [Feature, Receiver] })
    class FeatureModule {}
    const app = await boot({ imports: [FeatureModule, typeOrm(), FutureCallModule.forRoot()] });
    await app.get(Feature, { strict: false }).futureCalls.callWithDelay(Receiver, 1, 0);
    expect(await next()).toBe(1);
  });

  it.each([
    ['an unknown option', { concurency: 5 }, /has no option "concurency".*concurrency/],
    ['a wrong value', { concurrency: 0 }, /concurrency must be a whole number from 1 to 10000, but it is 0/],
    ['no length of time', { pollInterval: 'soon' }, /pollInterval: "soon" is not a length of time/],
    ['null as the data source', { dataSource: null }, /dataSource must be the name of .*but it is null/],
    ['a data source without a name', { dataSource: '' }, /dataSource must be the name of .*but it is ""/],
    ['a number as the data source', { dataSource: 5 }, /dataSource must be the name of .*but it is 5/],
    ['null', null, /takes an object of options, not null/],
    ['a string', 'postgres://me:secret@localhost', /takes an object of options, not a string/],
  ])('refuses %s', async (_what, options, message) => {
    const error = await bootError(() => ({
      imports: [typeOrm(), FutureCallModule.forRoot(options as FutureCallModuleOptions)],
    }));
    expect(error).toBeInstanceOf(FutureCallOptionsError);
    expect(error.message).toMatch(message);
    expect(error.message).not.toContain('secret');
  });
});

describe('FutureCallModule.forRootAsync', () => {
  @Injectable()
  class Config implements FutureCallOptionsFactory {
    interval = 4_000;
    createFutureCallOptions() {
      return { pollInterval: this.interval };
    }
  }
  @Module({ providers: [Config], exports: [Config] })
  class ConfigModule {}

  it.each<[string, () => Parameters<typeof FutureCallModule.forRootAsync>[0]]>([
    ['useFactory', () => ({ useFactory: () => ({ pollInterval: 4_000 }) })],
    ['an async useFactory', () => ({ useFactory: async () => ({ pollInterval: { seconds: 4 } }) })],
    [
      'imports, inject and useFactory',
      () => ({
        imports: [ConfigModule],
        inject: [Config],
        useFactory: ({ interval }: Config) => ({ pollInterval: interval }),
      }),
    ],
    ['useClass', () => ({ useClass: Config })],
    ['imports and useExisting', () => ({ imports: [ConfigModule], useExisting: Config })],
  ])('takes %s', async (_what, options) => {
    const { Receiver, next } = receiver('async');
    const app = await boot({
      imports: [typeOrm(), FutureCallModule.forRootAsync(options())],
      providers: [Receiver],
    });
    await app.get(FutureCallService).callWithDelay(Receiver, 1, 0);
    expect(await next()).toBe(1);
    expect(await pollIntervals()).toEqual([4_000]);
  });

  it('checks what the factory returns', async () => {
    const error = await bootError({
      imports: [typeOrm(), FutureCallModule.forRootAsync({ useFactory: () => ({ concurrency: -1 }) })],
    });
    expect(error).toBeInstanceOf(FutureCallOptionsError);
    expect(error.message).toMatch(/concurrency must be/);
  });

  it('refuses a factory that forgets to return', async () => {
    const error = await bootError({
      imports: [
        typeOrm(),
        FutureCallModule.forRootAsync({ useFactory: (() => {}) as unknown as () => FutureCallModuleOptions }),
      ],
    });
    expect(error.message).toMatch(/takes an object of options, not undefined/);
  });

  it.each<[string, () => Parameters<typeof FutureCallModule.forRootAsync>[0]]>([
    ['useClass', () => ({ useClass: Empty as never })],
    ['useExisting', () => ({ imports: [EmptyModule], useExisting: Empty as never })],
  ])('refuses a class that creates no options: %s', async (_what, options) => {
    const error = await bootError({
      imports: [typeOrm(), FutureCallModule.forRootAsync(options())],
    });
    expect(error).toBeInstanceOf(FutureCallOptionsError);
    expect(error.message).toMatch(/Empty .* no method createFutureCallOptions\(\)\. Add one/);
  });

  @Injectable()
  class Empty {}
  @Module({ providers: [Empty], exports: [Empty] })
  class EmptyModule {}

  it('says that dataSource stands beside useFactory', async () => {
    const error = await bootError({
      imports: [
        typeOrm(),
        FutureCallModule.forRootAsync({
          useFactory: () => ({ dataSource: 'other' }) as FutureCallModuleOptions,
        }),
      ],
    });
    expect(error).toBeInstanceOf(FutureCallOptionsError);
    expect(error.message).toMatch(/dataSource.*beside useFactory/);
  });

  it.each([
    ['nothing', undefined, /takes an object of options, not undefined/],
    ['no way to get options', {}, /needs useFactory, useClass or useExisting/],
    ['what is no factory', { useFactory: 5 }, /useFactory must be a function, but it is 5/],
    ['an unknown property', { useFactory: () => ({}), isGlobal: true }, /has no option "isGlobal"/],
  ])('refuses %s', (_what, options, message) => {
    const call = () =>
      FutureCallModule.forRootAsync(options as Parameters<typeof FutureCallModule.forRootAsync>[0]);
    expect(call).toThrow(FutureCallOptionsError);
    expect(call).toThrow(message);
  });
});

describe('dataSource', () => {
  const schedulesIn = async (to: TestDatabase, imports: DynamicModule[]) => {
    const { Receiver, next } = receiver('named');
    const app = await boot({ imports, providers: [Receiver] });
    const service = app.get(FutureCallService);
    await service.callWithDelay(Receiver, 'here', 0);
    expect(await next()).toBe('here');
    await service.callWithDelay(Receiver, 'later', '1h', { identifier: 'named' });
    expect(await to.query(`select data from future_call where name = 'named'`)).toEqual([{ data: 'later' }]);
    expect(await service.cancel('named')).toBe(1);
    await app.close();
  };

  it('chooses among several, in forRoot', () =>
    schedulesIn(other, [
      typeOrm(),
      typeOrm({ name: 'other' }, other.url),
      FutureCallModule.forRoot({ dataSource: 'other' }),
    ]));

  it('chooses among several, beside useFactory', () =>
    schedulesIn(other, [
      typeOrm(),
      typeOrm({ name: 'other' }, other.url),
      FutureCallModule.forRootAsync({ dataSource: 'other', useFactory: () => ({}) }),
    ]));

  it('is the unnamed one if not given', () =>
    schedulesIn(database, [typeOrm({ name: 'other' }, other.url), typeOrm(), FutureCallModule.forRoot()]));

  it('may be the only one, with a name', () =>
    schedulesIn(other, [
      typeOrm({ name: 'other' }, other.url),
      FutureCallModule.forRoot({ dataSource: 'other' }),
    ]));
});

describe('a data source that is not there', () => {
  it.each<[string, () => DynamicModule[], RegExp]>([
    [
      'none at all',
      () => [FutureCallModule.forRoot()],
      /finds no data source\. Import TypeOrmModule\.forRoot\(\)/,
    ],
    [
      'only one with a name',
      () => [typeOrm({ name: 'other' }), FutureCallModule.forRoot()],
      /finds no data source\..*FutureCallModule\.forRoot\(\{ dataSource: 'name' \}\)/,
    ],
    [
      'only another one',
      () => [typeOrm(), FutureCallModule.forRoot({ dataSource: 'calls' })],
      /finds no data source "calls"\..*TypeOrmModule\.forRoot\(\{ name: 'calls'/,
    ],
  ])('%s: refused, with the cure', async (_what, imports, message) => {
    for (const order of [imports(), imports().toReversed()]) {
      const error = await bootError({ imports: order });
      expect(error).toBeInstanceOf(FutureCallOptionsError);
      expect(error.message).toMatch(message);
    }
  });
});

describe('one per app', () => {
  it.each([
    ['with the same options', {}],
    ['with other options', { concurrency: 3 }],
  ])('a second forRoot %s is refused, with the cure', async (_what, options) => {
    @Module({ imports: [FutureCallModule.forRoot(options)] })
    class FeatureModule {}
    const error = await bootError({ imports: [typeOrm(), FutureCallModule.forRoot({}), FeatureModule] });
    expect(error).toBeInstanceOf(FutureCallOptionsError);
    expect(error.message).toMatch(/imported 2 times.*Call forRoot\(\) in the root module only.*global/);
  });

  it('forRoot beside forRootAsync is refused', async () => {
    const error = await bootError({
      imports: [
        typeOrm(),
        FutureCallModule.forRoot(),
        FutureCallModule.forRootAsync({ useFactory: () => ({}) }),
      ],
    });
    expect(error.message).toMatch(/imported 2 times/);
  });

  it.each([
    ['alone', () => [typeOrm(), FutureCallModule]],
    ['beside forRoot', () => [typeOrm(), FutureCallModule.forRoot(), FutureCallModule]],
    ['in a feature module', () => [typeOrm(), FutureCallModule.forRoot(), BareModule]],
    ['in a feature module alone', () => [typeOrm(), BareModule]],
  ])('the bare class %s is refused, also to who injects the service', async (_what, imports) => {
    const error = await bootError({ imports: imports(), providers: [User] });
    expect(error).toBeInstanceOf(FutureCallOptionsError);
    expect(error.message).toMatch(/Import FutureCallModule\.forRoot\(\), once, in the root module/);
  });

  @Injectable()
  class User {
    constructor(readonly futureCalls: FutureCallService) {}
  }
  @Module({ imports: [FutureCallModule], providers: [User] })
  class BareModule {}

  it('the same forRoot may be imported by several modules', async () => {
    const once = FutureCallModule.forRoot();
    @Module({ imports: [once] })
    class FeatureModule {}
    await boot({ imports: [typeOrm(), once, FeatureModule] });
    expect(await pollIntervals()).toHaveLength(1);
  });

  it('two apps in one process have one each', async () => {
    const one = receiver('one');
    const two = receiver('two');
    const [first, second] = await Promise.all([
      bootApp(database, { providers: [one.Receiver] }),
      bootApp(other, { providers: [two.Receiver] }),
    ]);
    await first.service.callWithDelay('one', 1, 0);
    await second.service.callWithDelay('two', 2, 0);
    expect([await one.next(), await two.next()]).toEqual([1, 2]);
    await expect(first.service.callWithDelay('two', 1, 0)).rejects.toThrow(/No handler for "two"/);
  });
});

describe('entities', () => {
  it('neither loaded automatically nor listed: refused, with the cure', async () => {
    for (const options of [
      { autoLoadEntities: false },
      { autoLoadEntities: undefined },
      // One of them was forgotten.
      { autoLoadEntities: false, entities: [FutureCallEntity] },
    ]) {
      const error = await bootError({ imports: [typeOrm(options), FutureCallModule.forRoot()] });
      expect(error).toBeInstanceOf(FutureCallSchemaError);
      expect(error.message).toMatch(/autoLoadEntities: true.*\.\.\.futureCallEntities/);
    }
  });

  it.each<[string, Partial<TypeOrmModuleOptions>]>([
    ['listed', { autoLoadEntities: false, entities: [...futureCallEntities] }],
    ['listed and loaded automatically', { entities: [...futureCallEntities] }],
  ])('%s', async (_what, options) => {
    const { Receiver, next } = receiver('entities');
    const app = await boot({
      imports: [typeOrm(options), FutureCallModule.forRoot()],
      providers: [Receiver],
    });
    await app.get(FutureCallService).callWithDelay(Receiver, 1, 0);
    expect(await next()).toBe(1);
  });
});

describe('a data source that is not initialized', () => {
  const NOT_INITIALIZED =
    /^The data source of future calls is not initialized: .* Leave manualInitialization out .*, or await dataSource\.initialize\(\) before app\.init\(\)/;

  it('is refused as that, whoever asks first, and the app boots once it is initialized', async () => {
    @Module({ imports: [typeOrm({ manualInitialization: true }), FutureCallModule.forRoot()] })
    class AppModule {}
    const app = await NestFactory.create(AppModule, { logger: false, abortOnError: false });
    onTestFinished(() => app.close());
    const service = app.get(FutureCallService);
    const error: unknown = await app.init().catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(FutureCallSchemaError);
    expect((error as Error).message).toMatch(NOT_INITIALIZED);
    await expect(service.cancel('x')).rejects.toThrow(NOT_INITIALIZED);
    await app.get(DataSource).initialize();
    await app.init();
    expect(await service.cancel('x')).toBe(0);
  });

  it('because it was destroyed before the boot, is refused as that', async () => {
    @Module({ imports: [typeOrm(), FutureCallModule.forRoot()] })
    class AppModule {}
    const app = await NestFactory.create(AppModule, { logger: false, abortOnError: false });
    onTestFinished(() => app.close());
    await app.get(DataSource).destroy();
    await expect(app.init()).rejects.toThrow(NOT_INITIALIZED);
  });

  it("because it was destroyed after the boot, is TypeORM's error for who uses the pool, and ours for who connects", async () => {
    const { Receiver } = receiver('destroyed');
    const app = await boot({
      imports: [typeOrm(), FutureCallModule.forRoot({ execute: 'manual' })],
      providers: [Receiver],
    });
    const service = app.get(FutureCallService);
    const control = app.get(FutureCallControl);
    await app.get(DataSource).destroy();
    for (const use of [
      () => service.callWithDelay(Receiver, 1, 0),
      () => service.callMany([{ handler: Receiver, delay: 0 }]),
      () => service.cancel('x'),
      () => control.runDue(),
    ]) {
      await expect(use()).rejects.toThrow(new TypeORMError('Driver not Connected'));
    }
    await expect(control.start()).rejects.toThrow(
      new FutureCallSessionError(
        'The data source of future calls has been destroyed, so there is no connection to the database. Close the app before its data source.',
      ),
    );
  });
});

describe('an app of another shape', () => {
  it('reads and writes the tables with repositories', async () => {
    const { Receiver, next } = receiver('repository');
    const app = await boot({
      imports: [
        typeOrm(),
        FutureCallModule.forRoot({ pollInterval: 100 }),
        TypeOrmModule.forFeature([FutureCallEntity]),
      ],
      providers: [Receiver],
    });
    const calls = app.get<Repository<FutureCallEntity>>(getRepositoryToken(FutureCallEntity));
    const later = await app
      .get(FutureCallService)
      .callWithDelay(Receiver, { a: 1 }, '1h', { identifier: 'x' });
    expect(await calls.findOneBy({ id: later.id })).toEqual({
      ...later,
      data: { a: 1 },
      attempt: 0,
      errors: null,
      createdAt: expect.any(Date),
    });
    await calls.delete(later.id);
    await calls.insert({ name: 'repository', data: { by: 'hand' }, dueAt: new Date() });
    expect(await next()).toEqual({ by: 'hand' });
  });

  it('serves HTTP, and schedules in a controller', async () => {
    const { Receiver, next } = receiver('http');
    @Controller('signup')
    class SignupController {
      constructor(private readonly futureCalls: FutureCallService) {}
      @Post()
      signUp() {
        return this.futureCalls.callWithDelay('http', 'mail', 0);
      }
    }
    @Module({
      imports: [typeOrm(), FutureCallModule.forRoot()],
      controllers: [SignupController],
      providers: [Receiver],
    })
    class AppModule {}
    const app = await NestFactory.create(AppModule, { logger: false, abortOnError: false });
    onTestFinished(() => app.close());
    await app.listen(0, '127.0.0.1');
    const response = await fetch(`${await app.getUrl()}/signup`, { method: 'POST' });
    expect(response.status).toBe(201);
    const call = (await response.json()) as Record<string, unknown>;
    expect(Object.keys(call)).toEqual(['id', 'name', 'identifier', 'dueAt']);
    expect(await next()).toBe('mail');
  });

  it.each<[string, Partial<TypeOrmModuleOptions>]>([
    ['a pool of one connection', { poolSize: 1 }],
    ['replication', { replication: { master: { url: '' }, slaves: [{ url: '' }] } }],
    ['host, user and the others instead of a URL', { url: undefined }],
    [
      'limits that are far too short for an engine',
      { extra: { statement_timeout: 10_000, query_timeout: 10_000 } },
    ],
    ['tables that are dropped and made anew at each start', { dropSchema: true, synchronize: true }],
    ['a name for its connections', { applicationName: 'my app' }],
  ])('has %s', async (_what, given) => {
    const { Receiver, next } = receiver('shape');
    const { host, port, user, password, database: name } = new pg.Client(database.url);
    const options = { ...given } as Record<string, unknown>;
    if ('replication' in given) {
      options['replication'] = { master: { url: database.url }, slaves: [{ url: database.url }] };
    }
    if ('url' in given) {
      Object.assign(options, { host, port, username: user, password: password ?? undefined, database: name });
    }
    const app = await boot({
      imports: [typeOrm(options), FutureCallModule.forRoot()],
      providers: [Receiver],
    });
    const service = app.get(FutureCallService);
    for (const n of [1, 2, 3]) await service.callWithDelay(Receiver, n, 0);
    expect(new Set([await next(), await next(), await next()])).toEqual(new Set([1, 2, 3]));
    await app.get(DataSource).transaction((manager) => service.callWithDelay(Receiver, 4, 0, { manager }));
    expect(await next()).toBe(4);
  });
});

/**
 * PostgreSQL as TypeORM's driver for CockroachDB takes it: the two speak one protocol, but for the name of a setting
 * that the driver sets when it connects.
 */
async function cockroach(): Promise<{ port: number; received: string[] }> {
  const { host, port } = new pg.Client(database.url);
  const sockets = new Set<net.Socket>();
  const received: string[] = [];
  const proxy = net.createServer((client) => {
    const server = host.startsWith('/') ? net.connect(`${host}/.s.PGSQL.${port}`) : net.connect(port, host);
    for (const socket of [client, server]) {
      sockets.add(socket);
      socket.on('error', () => {}).on('close', () => [client, server].forEach((both) => both.destroy()));
    }
    server.pipe(client);
    client.on('data', (bytes) => {
      const text = bytes.toString('latin1').replace('enable_experimental_', 'enable_experimental.');
      received.push(text);
      server.write(text, 'latin1');
    });
  });
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => {
    proxy.close();
    sockets.forEach((socket) => socket.destroy());
  });
  return { port: (proxy.address() as net.AddressInfo).port, received };
}

describe('the driver', () => {
  it.each([true, false])('must be postgres (autoLoadEntities: %s)', async (autoLoadEntities) => {
    const { port, received } = await cockroach();
    const { user, password, database: name } = new pg.Client(database.url);
    const error = await bootError({
      imports: [
        TypeOrmModule.forRoot({
          type: 'cockroachdb',
          host: '127.0.0.1',
          port,
          username: user,
          password: password ?? undefined,
          database: name,
          autoLoadEntities,
          retryAttempts: 0,
          timeTravelQueries: false,
        }),
        FutureCallModule.forRoot(),
      ],
    });
    expect(error).toBeInstanceOf(FutureCallSchemaError);
    expect(error.message).toMatch(/type "postgres", but this one is "cockroachdb"/);
    // TypeORM has connected, and nothing of ours was asked: our connections and tables bear that name.
    expect(received.join('')).toContain(name);
    expect(received.join('')).not.toMatch(/future.call/);
  });
});
