import { AsyncLocalStorage } from 'node:async_hooks';
import {
  Controller,
  Inject,
  Injectable,
  Module,
  Scope,
  type FactoryProvider,
  type Provider,
} from '@nestjs/common';
import {
  APP_FILTER,
  APP_GUARD,
  APP_INTERCEPTOR,
  APP_PIPE,
  ContextIdFactory,
  LazyModuleLoader,
  REQUEST,
  type ContextId,
  type HostComponentInfo,
} from '@nestjs/core';
import { Test } from '@nestjs/testing';
import { TypeOrmModule } from '@nestjs/typeorm';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import {
  FutureCall,
  FutureCallHandlerError,
  FutureCallModule,
  FutureCallService,
  UnknownFutureCallError,
  type FutureCallContext,
  type FutureCallHandler,
  type FutureCallRequest,
} from '../../lib/index.js';
import { bootApp } from '../support/app.js';
import { createDatabase, type TestDatabase } from '../support/database.js';
import { LogLines } from '../support/log-lines.js';
import { PATIENCE } from '../support/until.js';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(() => database.drop());

/** For `expect.poll`, which gives up after a second by itself. */
const PATIENTLY = { timeout: PATIENCE };

/** What handlers report, in order; the test waits for it. */
let reports: unknown[] = [];
let reported = () => {};
beforeEach(() => {
  reports = [];
});
function report(what: unknown) {
  reports.push(what);
  reported();
}
async function nextReport<T = unknown>(): Promise<T> {
  while (reports.length === 0) await new Promise<void>((resolve) => (reported = resolve));
  return reports.shift() as T;
}

const bootError = (providers: Provider[], rest: Parameters<typeof bootApp>[1] = {}) =>
  bootApp(database, { providers, ...rest }).then(
    () => undefined,
    (error: unknown) => error,
  );

async function expectBootError(providers: Provider[], message: RegExp) {
  const error = await bootError(providers);
  expect(error).toBeInstanceOf(FutureCallHandlerError);
  expect((error as Error).message).toMatch(message);
}

describe('at boot', () => {
  it('two handlers with one name are refused, by their classes', async () => {
    @FutureCall('twice')
    class First {
      invoke() {}
    }
    @FutureCall('twice')
    class Second {
      invoke() {}
    }
    await expectBootError([First, Second], /Two handlers are named "twice": First and Second\. Rename one/);
  });

  it('two classes with one name of their own are two handlers, and refused', async () => {
    const [one, two] = [0, 1].map(() => {
      @FutureCall('twice')
      class Same {
        invoke() {}
      }
      return Same;
    });
    await expectBootError([one!, two!], /Two handlers are named "twice": Same and Same/);
  });

  it('a class without invoke is refused', async () => {
    class Missing {}
    FutureCall('missing')(Missing as never);
    await expectBootError(
      [Missing],
      /Missing is marked @FutureCall\(\) but has no method invoke\(data, call\)/,
    );
  });

  it('a request-scoped class without invoke is refused', async () => {
    @Injectable({ scope: Scope.REQUEST })
    class Missing {}
    FutureCall('missing')(Missing as never);
    await expectBootError([Missing], /Missing is marked @FutureCall\(\) but has no method invoke/);
  });

  it('a controller is refused', async () => {
    @Controller()
    @FutureCall('controller')
    class Wrong {
      invoke() {}
    }
    @Module({ controllers: [Wrong] })
    class WrongModule {}
    const error = await bootError([], { imports: [WrongModule] });
    expect(error).toBeInstanceOf(FutureCallHandlerError);
    expect((error as Error).message).toMatch(/Wrong is a controller.*in providers/);
  });

  it('is found out by a process that executes nothing, too', async () => {
    @FutureCall('twice')
    class First {
      invoke() {}
    }
    @FutureCall('twice')
    class Second {
      invoke() {}
    }
    const error = await bootError([First, Second], { options: { execute: false } });
    expect(error).toBeInstanceOf(FutureCallHandlerError);
  });
});

describe('a handler is found', () => {
  @FutureCall('found')
  class Found implements FutureCallHandler {
    constructor(@Inject('PREFIX') readonly prefix: string) {}
    invoke(data: unknown) {
      report(`${this.prefix} ${String(data)}`);
    }
  }
  const prefix: Provider = { provide: 'PREFIX', useValue: 'hello' };

  it.each<[string, Provider[]]>([
    ['as a class', [Found]],
    ['as a value', [{ provide: 'FOUND', useValue: new Found('hello') }]],
    ['as a value under its own class', [{ provide: Found, useValue: new Found('hello') }]],
    [
      'from a factory',
      [
        {
          provide: 'FOUND',
          useFactory: (text: string) => new Found(text),
          inject: ['PREFIX'],
        } as FactoryProvider,
      ],
    ],
    [
      'from an async factory under its own class',
      [{ provide: Found, useFactory: async (text: string) => new Found(text), inject: ['PREFIX'] }],
    ],
    ['with a token', [{ provide: 'FOUND', useClass: Found }]],
    ['with a symbol', [{ provide: Symbol('found'), useClass: Found }]],
    ['with an alias', [Found, { provide: 'ALIAS', useExisting: Found }]],
    ['with two tokens', [Found, { provide: 'AGAIN', useClass: Found }]],
  ])('%s, and is invoked once', async (_what, providers) => {
    const { service } = await bootApp(database, { providers: [prefix, ...providers] });
    await service.callWithDelay('found', 'world', 0);
    expect(await nextReport()).toBe('hello world');
    await service.callWithDelay(Found, 'again', 0);
    expect(await nextReport()).toBe('hello again');
    expect(reports).toEqual([]);
  });

  it('once, when it is in two modules', async () => {
    @Module({ providers: [prefix, Found] })
    class One {}
    @Module({ providers: [prefix, Found] })
    class Two {}
    const { service } = await bootApp(database, { imports: [One, Two] });
    await service.callWithDelay(Found, 'world', 0);
    expect(await nextReport()).toBe('hello world');
  });

  it('when a subclass with a mark of its own stands beside it', async () => {
    @FutureCall('sub')
    class Sub extends Found {
      override invoke(data: unknown) {
        report(`sub ${String(data)}`);
      }
    }
    const { service } = await bootApp(database, { providers: [prefix, Found, Sub] });
    await service.callWithDelay(Found, 1, 0);
    expect(await nextReport()).toBe('hello 1');
    await service.callWithDelay(Sub, 2, 0);
    expect(await nextReport()).toBe('sub 2');
  });

  it('when its method is inherited', async () => {
    abstract class Base {
      invoke(data: unknown) {
        report(data);
      }
    }
    @FutureCall('inherits')
    class Inherits extends Base {}
    const { service } = await bootApp(database, { providers: [Inherits] });
    await service.callWithDelay(Inherits, 1, 0);
    expect(await nextReport()).toBe(1);
  });

  it('when its method is a property', async () => {
    @FutureCall('property')
    class Property {
      invoke = (data: unknown) => report([this instanceof Property, data]);
    }
    const { service } = await bootApp(database, { providers: [Property] });
    await service.callWithDelay(Property, 1, 0);
    expect(await nextReport()).toEqual([true, 1]);
  });

  it('but not for a subclass without a mark', async () => {
    class Sub extends Found {}
    const { service } = await bootApp(database, { providers: [prefix, Sub] });
    await expect(service.callWithDelay(Sub, 1, 0)).rejects.toThrow(FutureCallHandlerError);
    await expect(service.callWithDelay(Sub, 1, 0)).rejects.toThrow(
      /function Sub is no handler.*@FutureCall\('name'\)/,
    );
    await expect(service.callWithDelay('found', 1, 0)).rejects.toThrow(UnknownFutureCallError);
  });

  it('but not in a module that is loaded when the app has booted', async () => {
    @Module({ providers: [prefix, Found] })
    class LateModule {}
    const { app, service } = await bootApp(database);
    await app.get(LazyModuleLoader).load(() => LateModule);
    await expect(service.callWithDelay('found', 1, 0)).rejects.toThrow(UnknownFutureCallError);
  });

  it('but not when its class is in no providers', async () => {
    const { service } = await bootApp(database);
    await expect(service.callWithDelay(Found, 1, 0)).rejects.toThrow(UnknownFutureCallError);
    await expect(service.callWithDelay(Found, 1, 0)).rejects.toThrow(
      /No handler for "found".*to a module's providers/,
    );
  });
});

describe('a handler', () => {
  it('is injected without @Injectable, and gets data and context', async () => {
    @Injectable()
    class Mailer {
      send(to: string) {
        return `sent to ${to}`;
      }
    }
    @FutureCall('mail')
    class Mail {
      constructor(private readonly mailer: Mailer) {}
      invoke(data: { email: string }, call: FutureCallContext) {
        report([this.mailer.send(data.email), call]);
      }
    }
    const { service } = await bootApp(database, { providers: [Mailer, Mail] });
    const scheduled = await service.callWithDelay(Mail, { email: 'a@b.c' }, 0, { identifier: 'me' });
    const [sent, call] = await nextReport<[string, FutureCallContext]>();
    expect(sent).toBe('sent to a@b.c');
    expect({ ...call }).toEqual({ ...scheduled, attempt: 1 });
    expect(scheduled).toEqual({
      id: expect.stringMatching(/^[1-9]\d*$/),
      name: 'mail',
      identifier: 'me',
      dueAt: expect.any(Date),
    });
    expect(call.signal).toBeInstanceOf(AbortSignal);
    expect(call.signal.aborted).toBe(false);
  });

  it('that throws is logged with its name, the id, the attempt and the identifier of the call', async () => {
    @FutureCall('throws')
    class Throws {
      invoke() {
        throw new RangeError('out of stamps', { cause: new Error('the post office is closed') });
      }
    }
    const logger = new LogLines();
    const { service } = await bootApp(database, { providers: [Throws], logger });
    const first = await service.callWithDelay(Throws, null, 0, { identifier: 'me' });
    const second = await service.callWithDelay(Throws, null, 0);
    await expect
      .poll(() => logger.lines.filter((line) => line.includes('stamps')), PATIENTLY)
      .toHaveLength(2);
    expect(logger.lines).toContain(
      `Future call "throws" (id ${first.id}, attempt 1, identifier "me") failed: RangeError: out of stamps, caused by the post office is closed`,
    );
    expect(logger.lines).toContain(
      `Future call "throws" (id ${second.id}, attempt 1) failed: RangeError: out of stamps, caused by the post office is closed`,
    );
    expect(logger.stacks[0]).toMatch(
      /^RangeError: out of stamps\n +at [^]*\nCaused by: Error: the post office is closed\n +at /,
    );
  });

  it('that throws has a stack that names the handler, and of the library only what has a name there', async () => {
    const nextTurn = () => new Promise((resolve) => void setImmediate(resolve));
    @FutureCall('sync')
    class Sync {
      invoke() {
        report(new Error('x').stack);
      }
    }
    @FutureCall('async')
    class Async {
      async invoke() {
        await nextTurn();
        report(new Error('x').stack);
      }
    }
    @FutureCall('scoped')
    @Injectable({ scope: Scope.REQUEST })
    class Scoped extends Sync {}
    @FutureCall('transient')
    @Injectable({ scope: Scope.TRANSIENT })
    class Transient extends Async {}
    const { service } = await bootApp(database, { providers: [Sync, Async, Scoped, Transient] });
    const ours: string[] = [];
    for (const [name, own] of [
      ['sync', 'Sync.invoke'],
      ['async', 'Async.invoke'],
      ['scoped', 'Scoped.invoke'],
      ['transient', 'Transient.invoke'],
    ] as const) {
      await service.callWithDelay(name, null, 0);
      const [, first, ...frames] = (await nextReport<string>()).split('\n');
      expect(first).toContain(`at ${own} (`);
      ours.push(...frames.filter((frame) => /[\\/]lib[\\/](?!.*node_modules)/.test(frame)));
    }
    expect(ours.join('\n')).toMatch(/at invokeHandler \([^]*at (async )?invokeScopedHandler \(/);
    const named = /^ +at (async )?(FutureCall[A-Z]\w+\.\w+|invokeHandler|invokeScopedHandler) \(/;
    expect(ours.filter((frame) => !named.test(frame))).toEqual([]);
  });

  it('may use the service: a call schedules the next one', async () => {
    @FutureCall('countdown')
    class Countdown {
      constructor(private readonly futureCalls: FutureCallService) {}
      async invoke(n: number) {
        if (n > 0) await this.futureCalls.callWithDelay(Countdown, n - 1, 0);
        report(n);
      }
    }
    const { service } = await bootApp(database, { providers: [Countdown] });
    await service.callWithDelay(Countdown, 3, 0);
    const seen = [await nextReport(), await nextReport(), await nextReport(), await nextReport()];
    expect(new Set(seen)).toEqual(new Set([0, 1, 2, 3]));
  });
});

describe("Nest's enhancers", () => {
  it('do not concern a handler: guards, interceptors, pipes and filters are for requests', async () => {
    const asked: string[] = [];
    const deny = (what: string) => () => {
      asked.push(what);
      throw new Error(what);
    };
    const { service } = await bootApp(database, {
      providers: [
        { provide: APP_GUARD, useValue: { canActivate: deny('guard') } },
        { provide: APP_INTERCEPTOR, useValue: { intercept: deny('interceptor') } },
        { provide: APP_PIPE, useValue: { transform: deny('pipe') } },
        { provide: APP_FILTER, useValue: { catch: deny('filter') } },
        Free,
      ],
    });
    await service.callWithDelay(Free, 'fails', 0);
    await service.callWithDelay(Free, 'works', 0);
    expect(await nextReport()).toBe('fails');
    expect(await nextReport()).toBe('works');
    await expect
      .poll(
        () =>
          database.query(`select errors->0->>'message' as why from future_call_outcome where name = 'free'`),
        PATIENTLY,
      )
      .toEqual([{ why: 'on purpose' }]);
    expect(asked).toEqual([]);
  });

  @FutureCall('free', { concurrency: 1 })
  class Free {
    invoke(data: string) {
      report(data);
      if (data === 'fails') throw new Error('on purpose');
    }
  }
});

describe('the asynchronous context', () => {
  it('of who schedules does not reach the handler, nor that of one handler the next', async () => {
    const storage = new AsyncLocalStorage<string>();
    @FutureCall('context')
    class Context {
      invoke() {
        report(storage.getStore());
        storage.enterWith('a handler');
      }
    }
    const { service } = await bootApp(database, { providers: [Context], options: { concurrency: 1 } });
    await storage.run('who schedules', async () => {
      for (let i = 0; i < 3; i++) await service.callWithDelay(Context, null, 0);
      await service.callWithDelay(Context, null, 5);
    });
    const seen = [];
    for (let i = 0; i < 4; i++) seen.push(await nextReport());
    expect(seen).toEqual([undefined, undefined, undefined, undefined]);
  });
});

describe('a scoped handler', () => {
  let instances = 0;
  beforeEach(() => {
    instances = 0;
  });

  /** Two calls; each reports which instance ran it. */
  async function runTwice(providers: Provider[], name: string) {
    const { service } = await bootApp(database, { providers });
    await service.callWithDelay(name, 'a', 0);
    const first = await nextReport<{ instance: number; request?: FutureCallRequest }>();
    await service.callWithDelay(name, 'b', 0);
    const second = await nextReport<{ instance: number; request?: FutureCallRequest }>();
    return [first, second] as const;
  }

  it('that is a singleton has one instance', async () => {
    @FutureCall('singleton')
    class Singleton {
      readonly instance = ++instances;
      invoke() {
        report(this);
      }
    }
    const [first, second] = await runTwice([Singleton], 'singleton');
    expect([first.instance, second.instance, instances]).toEqual([1, 1, 1]);
  });

  it('that is transient has a new instance for each call, and what it injects', async () => {
    @Injectable({ scope: Scope.TRANSIENT })
    @FutureCall('transient')
    class Transient {
      readonly instance = ++instances;
      constructor(readonly futureCalls: FutureCallService) {}
      invoke() {
        report(this);
      }
    }
    const [first, second] = await runTwice([Transient], 'transient');
    expect(first.instance).not.toBe(second.instance);
    expect(first).toHaveProperty('futureCalls');
    expect((first as unknown as Transient).futureCalls).toBeInstanceOf(FutureCallService);
  });

  it('that is request-scoped has a new instance for each call, and REQUEST is the call', async () => {
    // The other way round as above: @Injectable below @FutureCall.
    @FutureCall('request')
    @Injectable({ scope: Scope.REQUEST })
    class RequestScoped {
      readonly instance = ++instances;
      constructor(@Inject(REQUEST) readonly request: FutureCallRequest) {}
      invoke(data: unknown, call: FutureCallContext) {
        report({ instance: this.instance, request: this.request, data, call });
      }
    }
    const [first, second] = await runTwice([RequestScoped], 'request');
    expect([first.instance, second.instance, instances]).toEqual([1, 2, 2]);
    expect(first.request).toMatchObject({ data: 'a', call: { name: 'request', attempt: 1 } });
    expect(second.request!.data).toBe('b');
    expect(second.request!.call).toBe((second as unknown as { call: unknown }).call);
  });

  it('that depends on a request-scoped provider has a new instance for each call', async () => {
    @Injectable({ scope: Scope.REQUEST })
    class PerCall {
      constructor(@Inject(REQUEST) readonly request: FutureCallRequest) {}
    }
    @FutureCall('bubbles')
    class Bubbles {
      readonly instance = ++instances;
      constructor(private readonly perCall: PerCall) {}
      invoke() {
        report({ instance: this.instance, request: this.perCall.request });
      }
    }
    const [first, second] = await runTwice([PerCall, Bubbles], 'bubbles');
    expect([first.instance, second.instance]).toEqual([1, 2]);
    expect([first.request!.data, second.request!.data]).toEqual(['a', 'b']);
  });

  it('that comes from a request-scoped factory has a new instance for each call', async () => {
    class Made {
      readonly instance = ++instances;
      constructor(readonly request: FutureCallRequest) {}
      invoke() {
        report(this);
      }
    }
    FutureCall('made')(Made);
    const provider: Provider = {
      provide: Made,
      scope: Scope.REQUEST,
      inject: [REQUEST],
      useFactory: (request: FutureCallRequest) => new Made(request),
    };
    const [first, second] = await runTwice([provider], 'made');
    expect([first.instance, second.instance]).toEqual([1, 2]);
    expect(first.request!.data).toBe('a');
  });

  it('is resolved in its own module, when another one has a handler of the same token', async () => {
    const modules = [Scope.REQUEST, Scope.TRANSIENT].flatMap((scope) =>
      ['left', 'right'].map((side) => {
        @Injectable()
        class Where {
          readonly side = side;
        }
        @FutureCall(`${side} ${scope}`)
        @Injectable({ scope })
        class Handler {
          constructor(private readonly where: Where) {}
          invoke(data: unknown, { name }: FutureCallContext) {
            report([data, name, this.where.side]);
          }
        }
        @Module({ providers: [{ provide: `HANDLER ${scope}`, useClass: Handler }, Where] })
        class Side {}
        return { module: Side, name: `${side} ${scope}`, side };
      }),
    );
    const { service } = await bootApp(database, { imports: modules.map(({ module }) => module) });
    for (const { name, side } of modules) {
      await service.callWithDelay(name, 'mine', 0);
      expect(await nextReport()).toEqual(['mine', name, side]);
    }
  });

  it('whose constructor throws has failed', async () => {
    @FutureCall('broken')
    @Injectable({ scope: Scope.REQUEST })
    class Broken {
      constructor(@Inject(REQUEST) { data }: FutureCallRequest) {
        if (data === 'bad') throw new Error('cannot be made');
      }
      invoke(data: string) {
        report(data);
      }
    }
    const { service } = await bootApp(database, { providers: [Broken] });
    const { id } = await service.callWithDelay(Broken, 'bad', 0);
    await service.callWithDelay(Broken, 'good', 0);
    expect(await nextReport()).toBe('good');
    await expect
      .poll(
        () => database.query('select outcome, errors from future_call_outcome where call_id = $1', [id]),
        PATIENTLY,
      )
      .toMatchObject([{ outcome: 'failed', errors: [{ message: 'cannot be made' }] }]);
  });

  describe('that is durable', () => {
    // One sub-tree of providers a tenant, as Nest's documentation shows it.
    const tenants = new Map<unknown, ContextId>();
    beforeAll(() => {
      ContextIdFactory.apply({
        attach(contextId: ContextId, request: FutureCallRequest) {
          const tenant = (request.data as { tenant: string }).tenant;
          const parent = tenants.get(tenant) ?? ContextIdFactory.create();
          tenants.set(tenant, parent);
          return {
            resolve: (info: HostComponentInfo) => (info.isTreeDurable ? parent : contextId),
            payload: { tenant },
          };
        },
      });
    });
    afterEach(() => {
      ContextIdFactory.apply({ attach: () => undefined });
    });

    it('has one instance for a tenant', async () => {
      @FutureCall('durable')
      @Injectable({ scope: Scope.REQUEST, durable: true })
      class Durable {
        readonly instance = ++instances;
        constructor(@Inject(REQUEST) readonly payload: { tenant: string }) {}
        invoke(_data: { tenant: string }) {
          report([this.instance, this.payload.tenant]);
        }
      }
      const { service } = await bootApp(database, { providers: [Durable] });
      const seen = [];
      for (const tenant of ['a', 'b', 'a']) {
        await service.callWithDelay(Durable, { tenant }, 0);
        seen.push(await nextReport());
      }
      expect(seen).toEqual([
        [1, 'a'],
        [2, 'b'],
        [1, 'a'],
      ]);
    });
  });
});

describe('in a test module', () => {
  @FutureCall('tested')
  class Tested {
    constructor(@Inject('EXPENSIVE') readonly expensive: string) {}
    invoke(data: unknown) {
      report(`real ${String(data)}`);
    }
  }
  const module = () =>
    Test.createTestingModule({
      imports: [
        TypeOrmModule.forRoot({ type: 'postgres', url: database.url, autoLoadEntities: true }),
        FutureCallModule.forRoot(),
      ],
      providers: [Tested, { provide: 'EXPENSIVE', useValue: 'x' }],
    });

  it.each<[string, () => ReturnType<typeof module>]>([
    ['as it is', module],
    [
      'replaced by a value',
      () =>
        module()
          .overrideProvider(Tested)
          .useValue({ invoke: (data: string) => report(`real ${data}`) }),
    ],
    [
      'replaced by a class',
      () => {
        class Fake {
          invoke(data: string) {
            report(`real ${data}`);
          }
        }
        return module().overrideProvider(Tested).useClass(Fake);
      },
    ],
    [
      'replaced by a factory',
      () =>
        module()
          .overrideProvider(Tested)
          .useFactory({ factory: () => ({ invoke: (data: string) => report(`real ${data}`) }) }),
    ],
  ])('a handler runs, %s', async (_what, build) => {
    const tested = await build().compile();
    try {
      await tested.init();
      await tested.get(FutureCallService).callWithDelay(Tested, 1, 0);
      expect(await nextReport()).toBe('real 1');
    } finally {
      await tested.close();
    }
  });

  it('the service can be replaced', async () => {
    @Injectable()
    class Signup {
      constructor(readonly futureCalls: FutureCallService) {}
    }
    const tested = await Test.createTestingModule({
      providers: [Signup, { provide: FutureCallService, useValue: { cancel: async () => 7 } }],
    }).compile();
    expect(await tested.get(Signup).futureCalls.cancel('x')).toBe(7);
    await tested.close();
  });
});
