/** What scheduling takes and gives. Compiled, never run: a line marked "ts-expect-error" must not compile. */
import type { EntityManager } from 'typeorm';
import {
  FutureCallModule,
  type Delay,
  type Duration,
  type FutureCallModuleOptions,
  type FutureCallService,
  type ScheduledFutureCall,
} from '../../lib/index.js';
import {
  AnyJson,
  Anything,
  Derived,
  NoParameters,
  Nullable,
  Optional,
  Primitive,
  Remind,
  Unknown,
  Void,
  VoidParameter,
  type Reminder,
} from './handlers.js';

declare const service: FutureCallService;
declare const manager: EntityManager;
const nested: Reminder['nested'] = { list: [], kind: null };
const reminder = { email: 'a@b.c', tags: [], nested };

export async function dataByClass(): Promise<void> {
  await service.callWithDelay(Remind, reminder, 0);
  await service.callAtTime(Remind, reminder, new Date());
  await service.callWithDelay(Remind, { ...reminder, count: 1, tags: ['a'] }, 0);
  await service.callWithDelay(Derived, reminder, 0);

  // @ts-expect-error No data.
  await service.callWithDelay(Remind, undefined, 0);
  // @ts-expect-error
  await service.callWithDelay(Remind, null, 0);
  // @ts-expect-error Something is missing.
  await service.callWithDelay(Remind, { email: 'a@b.c' }, 0);
  // @ts-expect-error Something has another type.
  await service.callWithDelay(Remind, { ...reminder, email: 5 }, 0);
  // @ts-expect-error Something is too much.
  await service.callWithDelay(Remind, { email: 'a@b.c', tags: [], nested, mail: 'x' }, 0);
  // @ts-expect-error A Date is not the string that arrives.
  await service.callWithDelay(Remind, { ...reminder, email: new Date() }, 0);
  // @ts-expect-error The same by time.
  await service.callAtTime(Remind, { email: 'a@b.c' }, new Date());
  // @ts-expect-error
  await service.callAtTime(Derived, 'text', new Date());

  await service.callWithDelay(NoParameters, null, 0);
  await service.callWithDelay(NoParameters, undefined, 0);
  // @ts-expect-error It would not arrive.
  await service.callWithDelay(NoParameters, 5, 0);

  await service.callWithDelay(Optional, undefined, 0);
  await service.callWithDelay(Optional, reminder, 0);
  // @ts-expect-error
  await service.callWithDelay(Optional, 5, 0);

  await service.callWithDelay(Nullable, null, 0);
  await service.callWithDelay(Nullable, reminder, 0);

  await service.callWithDelay(Void, undefined, 0);
  await service.callWithDelay(VoidParameter, undefined, 0);
  await service.callWithDelay(Primitive, 5, 0);
  // @ts-expect-error
  await service.callWithDelay(Primitive, {}, 0);
  await service.callWithDelay(Unknown, new Date(), 0);
  await service.callWithDelay(Anything, { a: 1 }, 0);
  await service.callWithDelay(AnyJson, { a: [1, null, { b: 'c' }] }, 0);
  // @ts-expect-error
  await service.callWithDelay(AnyJson, { a: [new Date()] }, 0);
}

export async function handlers(): Promise<void> {
  await service.callWithDelay('remind', reminder, 0);
  await service.callWithDelay('remind', null, 0);
  class Bare {}
  // @ts-expect-error No handler.
  await service.callWithDelay(Bare, null, 0);
  // @ts-expect-error An instance, not the class.
  await service.callWithDelay(new NoParameters(), null, 0);
  // @ts-expect-error
  await service.callWithDelay(5, null, 0);
  // @ts-expect-error No data at all: null says so.
  await service.callWithDelay('remind', 0);
}

export async function delays(): Promise<void> {
  const all: Delay[] = [
    0,
    1.5,
    '90m',
    { months: 1 },
    { years: 1, months: 1, weeks: 1, days: 1, hours: 1, minutes: 1, seconds: 1, milliseconds: 1 },
  ];
  for (const delay of all) await service.callWithDelay('remind', null, delay);
  // @ts-expect-error
  await service.callWithDelay('remind', null, { day: 1 });
  // @ts-expect-error
  await service.callWithDelay('remind', null, { days: '1' });
  // @ts-expect-error
  await service.callWithDelay('remind', null, new Date());
  // @ts-expect-error
  await service.callWithDelay('remind', null, null);
  // @ts-expect-error
  await service.callWithDelay('remind', null);
  // @ts-expect-error A time is a Date, nothing else.
  await service.callAtTime('remind', null, '2027-01-01');
  // @ts-expect-error
  await service.callAtTime('remind', null, Date.now());

  // @ts-expect-error A length of time has no units of a calendar.
  const duration: Duration = { months: 1 };
  void duration;
}

export async function options(): Promise<void> {
  const call: ScheduledFutureCall = await service.callWithDelay('remind', null, 0, {
    identifier: 'x',
    manager,
  });
  const { id, name, identifier, dueAt } = call;
  const shapes: [string, string, string | null, Date] = [id, name, identifier, dueAt];
  void shapes;
  // @ts-expect-error
  call.id = '5';
  await service.callWithDelay('remind', null, 0, { identifier: null });
  // @ts-expect-error
  await service.callWithDelay('remind', null, 0, { identifier: 5 });
  // @ts-expect-error
  await service.callWithDelay('remind', null, 0, { identifer: 'x' });
  // @ts-expect-error
  await service.callWithDelay('remind', null, 0, { manager: {} });

  const cancelled: number = await service.cancel('x', { manager });
  void cancelled;
  // @ts-expect-error
  await service.cancel(undefined);
  // @ts-expect-error
  await service.cancel(null);
  // @ts-expect-error
  await service.cancel(5);
  // @ts-expect-error
  await service.cancel();
}

export function modules(): void {
  const all: Required<Omit<FutureCallModuleOptions, 'retention'>> = {
    execute: true,
    concurrency: 10,
    prefetch: true,
    pollInterval: '10s',
    rescueAfter: { seconds: 5 },
    shutdownTimeout: 20_000,
    migrate: true,
    unknownNames: 'accept',
    sessionUrl: 'postgres://localhost',
    preparedStatements: true,
  };
  class Factory {
    createFutureCallOptions() {
      return all;
    }
  }
  class NoFactory {}
  FutureCallModule.forRoot();
  FutureCallModule.forRoot({ ...all, dataSource: 'named' });
  FutureCallModule.forRootAsync({ useFactory: () => all });
  FutureCallModule.forRootAsync({ useFactory: async (n: number) => ({ concurrency: n }), inject: ['N'] });
  FutureCallModule.forRootAsync({ dataSource: 'named', useFactory: () => ({}) });
  FutureCallModule.forRootAsync({ useClass: Factory });
  FutureCallModule.forRootAsync({ useExisting: Factory, imports: [] });
  // @ts-expect-error
  FutureCallModule.forRoot({ concurency: 5 });
  // @ts-expect-error
  FutureCallModule.forRoot({ pollInterval: { months: 1 } });
  // @ts-expect-error
  FutureCallModule.forRoot({ unknownNames: 'ignore' });
  // @ts-expect-error It does not create options.
  FutureCallModule.forRootAsync({ useClass: NoFactory });
  // @ts-expect-error The factory does not return options.
  FutureCallModule.forRootAsync({ useFactory: () => ({ concurrency: '5' }) });
}

export async function many(): Promise<void> {
  const calls: ScheduledFutureCall[] = await service.callMany([
    { handler: Remind, data: reminder, delay: 0 },
    { handler: Remind, data: reminder, time: new Date(), identifier: 'x' },
    { handler: NoParameters, delay: { months: 1 }, identifier: null },
    { handler: Optional, delay: '90m' },
    { handler: Void, delay: '90m' },
    { handler: Primitive, data: 5, delay: 0 },
    { handler: 'remind', data: { any: 'thing' }, delay: 0 },
    { handler: 'remind', delay: 0 },
  ]);
  void calls;
  const given = [1, 2].map((n) => ({ handler: Primitive, data: n, delay: 0 }));
  await service.callMany(given, { manager });
  await service.callMany([]);

  // @ts-expect-error No data.
  await service.callMany([{ handler: Remind, delay: 0 }]);
  // @ts-expect-error Something has another type.
  await service.callMany([{ handler: Remind, data: { ...reminder, email: 5 }, delay: 0 }]);
  // @ts-expect-error A Date is not the string that arrives.
  await service.callMany([{ handler: Remind, data: { ...reminder, email: new Date() }, delay: 0 }]);
  await service.callMany([
    { handler: Remind, data: reminder, delay: 0 },
    // @ts-expect-error Each has the data of its own handler.
    { handler: Primitive, data: reminder, delay: 0 },
  ]);
  // @ts-expect-error Of an array that is made elsewhere, too.
  await service.callMany(given.map((one) => ({ ...one, handler: Remind })));
  // @ts-expect-error Also of one with several handlers.
  await service.callMany(given.flatMap((one) => [one, { ...one, handler: Remind }]));
  // @ts-expect-error Neither a delay nor a time.
  await service.callMany([{ handler: Primitive, data: 5 }]);
  // @ts-expect-error Both.
  await service.callMany([{ handler: Primitive, data: 5, delay: 0, time: new Date() }]);
  // @ts-expect-error A time is a Date, nothing else.
  await service.callMany([{ handler: Primitive, data: 5, time: '2027-01-01' }]);
  // @ts-expect-error
  await service.callMany({ handler: Primitive, data: 5, delay: 0 });
  // @ts-expect-error The label is each call's own.
  await service.callMany([{ handler: Primitive, data: 5, delay: 0 }], { identifier: 'x' });
}
