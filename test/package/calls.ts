import assert from 'node:assert/strict';
import {
  FutureCall,
  FutureCallService,
  type FutureCallContext,
  type FutureCallHandler,
} from 'nestjs-future-call';
import { DataSource } from 'typeorm';
import { boot } from './boot.js';
import { next } from './next.js';

interface Greeting {
  name: string;
}

const greeted: [Greeting, FutureCallContext][] = [];

@FutureCall('greet')
class Greet implements FutureCallHandler<Greeting> {
  invoke(data: Greeting, call: FutureCallContext) {
    greeted.push([data, call]);
  }
}

@FutureCall('stumble', { attempts: 2, backoff: { type: 'fixed', delay: '20ms' } })
class Stumble implements FutureCallHandler<null> {
  invoke(_data: null, call: FutureCallContext) {
    if (call.attempt === 1) throw new Error('The first attempt fails, as it should.');
  }
}

export async function checkCalls(): Promise<void> {
  const app = await boot({ providers: [Greet, Stumble] });
  const service = app.get(FutureCallService);
  await checkSchedule(service);
  await checkMany(service);
  await checkTransaction(service, app.get(DataSource));
  await checkAttempts(service);
  await app.close();
}

async function checkSchedule(service: FutureCallService): Promise<void> {
  const completed = next(service, 'completed');
  const scheduled = await service.callWithDelay(Greet, { name: 'world' }, '20ms', { identifier: 'smoke' });
  await completed;
  const [[data, call]] = greeted.splice(0) as [[Greeting, FutureCallContext]];
  assert.deepEqual(data, { name: 'world' });
  assert.equal(call.id, scheduled.id);
  assert.deepEqual(call.dueAt, scheduled.dueAt);

  await service.callAtTime('greet', { name: 'nobody' }, new Date('2999-01-01'), { identifier: 'smoke' });
  assert.equal(await service.cancel('smoke'), 1);

  // The types came along: neither line compiles, and neither would be refused if something in them were `any`.
  void [
    // @ts-expect-error A name is a string.
    () => service.callWithDelay(Greet, { name: 1 }, 0),
    // @ts-expect-error There is no such unit.
    () => service.callWithDelay(Greet, { name: 'world' }, { fortnights: 1 }),
  ];
}

async function checkMany(service: FutureCallService): Promise<void> {
  // More than one statement takes.
  const calls = Array.from({ length: 5_001 }, (_, i) => ({
    handler: Greet,
    data: { name: `number ${i}` },
    delay: { days: 1 },
    identifier: 'many',
  }));
  const scheduled = await service.callMany(calls);
  assert.equal(new Set(scheduled.map(({ id }) => id)).size, calls.length);
  assert.equal(await service.cancel('many'), calls.length);
}

async function checkTransaction(service: FutureCallService, dataSource: DataSource): Promise<void> {
  const completed = next(service, 'completed');
  await dataSource.transaction(async (manager) => {
    await service.callWithDelay(Greet, { name: 'committed' }, 0, { manager });
    await service.callMany(
      [{ handler: Greet, data: { name: 'later' }, delay: '1d', identifier: 'committed' }],
      {
        manager,
      },
    );
  });
  await completed;
  assert.deepEqual(
    greeted.splice(0).map(([{ name }]) => name),
    ['committed'],
  );

  const rolledBack = dataSource.transaction(async (manager) => {
    assert.equal(await service.cancel('committed', { manager }), 1);
    await service.callWithDelay(Greet, { name: 'nobody' }, 0, { manager });
    throw new Error('rolled back');
  });
  await assert.rejects(rolledBack, /rolled back/);
  assert.equal(await service.cancel('committed'), 1);
  assert.deepEqual(await dataSource.query('select name from future_call'), []);
  assert.deepEqual(greeted, []);
}

async function checkAttempts(service: FutureCallService): Promise<void> {
  const failed = next(service, 'failed');
  const { id } = await service.callWithDelay(Stumble, null, 0);
  const { attempt, willRetry } = await failed;
  assert.deepEqual([attempt, willRetry], [1, true]);
  const end = await next(service, 'completed');
  assert.deepEqual([end.id, end.attempt], [id, 2]);
}
