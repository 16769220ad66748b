import { Logger } from '@nestjs/common';
import { config, firstValueFrom, filter, take, toArray } from 'rxjs';
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { FutureCall, type FutureCallEvent, type FutureCallService } from '../../lib/index.js';
import { bootApp, createTables } from '../support/app.js';
import { createDatabase, type TestDatabase } from '../support/database.js';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
  await createTables(database);
});
beforeEach(() => database.query('truncate future_call, future_call_running, future_call_outcome'));
afterAll(() => database.drop());

/** The next so many events, in order. */
const next = (service: FutureCallService, count: number) =>
  firstValueFrom(service.events.pipe(take(count), toArray()));

const nextOf = <T extends FutureCallEvent['type']>(service: FutureCallService, type: T) =>
  firstValueFrom(
    service.events.pipe(
      filter((event): event is Extract<FutureCallEvent, { type: T }> => event.type === type),
    ),
  );

@FutureCall('greet')
class Greet {
  invoke() {}
}

@FutureCall('fail', { attempts: 2, backoff: { type: 'fixed', delay: 0 } })
class Fail {
  invoke() {
    throw new TypeError('no');
  }
}

describe('FutureCallService.events', () => {
  it('tells of a call that is scheduled, started and completed', async () => {
    const { service } = await bootApp(database, { providers: [Greet] });
    const events = next(service, 3);
    const call = await service.callWithDelay(Greet, null, 0, { identifier: 'x' });
    const of = { id: call.id, name: 'greet', identifier: 'x' };
    expect(await events).toEqual([
      { type: 'scheduled', ...of, dueAt: call.dueAt },
      { type: 'started', ...of, attempt: 1, dueAt: call.dueAt },
      { type: 'completed', ...of, attempt: 1 },
    ]);
  });

  it('tells of every attempt that fails, and whether another one follows', async () => {
    const { service } = await bootApp(database, { providers: [Fail] });
    const failed = firstValueFrom(
      service.events.pipe(
        filter(({ type }) => type === 'failed'),
        take(2),
        toArray(),
      ),
    );
    const { id } = await service.callWithDelay(Fail, null, 0);
    const error = expect.objectContaining({ name: 'TypeError', message: 'no' });
    const of = { type: 'failed', id, name: 'fail', identifier: null, error };
    expect(await failed).toEqual([
      { ...of, attempt: 1, willRetry: true },
      { ...of, attempt: 2, willRetry: false },
    ]);
  });

  it('tells of every call that is cancelled', async () => {
    const { service } = await bootApp(database, { providers: [Greet] });
    const calls = [
      await service.callWithDelay(Greet, null, '1h', { identifier: 'x' }),
      await service.callWithDelay(Greet, null, '2h', { identifier: 'x' }),
    ];
    const events = next(service, 2);
    await service.cancel('x');
    const told = (await events) as { id: string }[];
    expect(told.toSorted((a, b) => Number(a.id) - Number(b.id))).toEqual(
      calls.map(({ id }) => ({ type: 'cancelled', id, name: 'greet', identifier: 'x' })),
    );
  });

  it('tells of calls that are interrupted by the drain, and completes', async () => {
    @FutureCall('stuck', { concurrency: 1 })
    class Stuck {
      invoke() {
        return new Promise(() => {});
      }
    }
    const { service, close } = await bootApp(database, {
      providers: [Stuck],
      options: { shutdownTimeout: 0 },
    });
    const started = nextOf(service, 'started');
    const { id } = await service.callWithDelay(Stuck, null, 0);
    await started;
    const events = firstValueFrom(service.events.pipe(toArray()));
    await close();
    expect(await events).toEqual([
      {
        type: 'interrupted',
        id,
        name: 'stuck',
        identifier: null,
        attempt: 1,
        willRetry: false,
        instanceId: expect.any(Number),
      },
    ]);
  });

  it('tells of the session that is lost and comes back', async () => {
    const { service } = await bootApp(database, { providers: [Greet] });
    const events = next(service, 2);
    await database.query(
      `select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'future-call instance%' and datname = current_database()`,
    );
    const [lost, back] = await events;
    expect(lost).toMatchObject({ type: 'disconnected', error: expect.any(Error) });
    expect(back).toEqual({ type: 'connected', instanceId: (lost as { instanceId: number }).instanceId });
  });

  it('keeps what a subscriber throws from the engine: rxjs reports it, in a turn of its own', async () => {
    const { onUnhandledError } = config;
    onTestFinished(() => void (config.onUnhandledError = onUnhandledError));
    let reported = 0;
    const error = new Error('of a subscriber');
    config.onUnhandledError = (thrown) => {
      expect(thrown).toBe(error);
      reported++;
    };
    const { service, close } = await bootApp(database, { providers: [Greet, Fail] });
    let told = 0;
    service.events.subscribe(() => {
      told++;
      throw error;
    });
    const events = firstValueFrom(
      service.events.pipe(
        filter(({ type }) => type === 'completed' || type === 'failed'),
        take(4),
        toArray(),
      ),
    );
    await service.callWithDelay(Greet, null, 0);
    await service.callWithDelay(Fail, null, 0);
    await service.callWithDelay(Greet, null, 0);
    await service.callWithDelay(Greet, null, '1h', { identifier: 'x' });
    await service.cancel('x');
    expect((await events).map(({ type }) => type).toSorted()).toEqual([
      'completed',
      'completed',
      'failed',
      'failed',
    ]);
    await close();
    expect(reported).toBe(told);
    // Four are scheduled, four started, one cancelled, and four have ended.
    expect(told).toBe(13);
    expect(await database.query('select name, outcome from future_call_outcome')).toEqual([
      { name: 'fail', outcome: 'failed' },
    ]);
  });

  it('tells of an instance that was found dead, and of its calls', async () => {
    const { service } = await bootApp(database, { providers: [Greet], options: { rescueAfter: 500 } });
    const events = next(service, 2);
    await database.query(`
      with dead as (
        insert into future_call_instance (host, pid, poll_interval, handlers) values ('gone', 42, 10000, '{"greet": 1}') returning id
      )
      insert into future_call_running (id, name, due_at, attempt, created_at, instance_id, claim)
      select 4711, 'greet', now(), 1, now(), id, 1 from dead`);
    const [interrupted, rescued] = await events;
    const { instanceId } = rescued as { instanceId: number };
    expect(interrupted).toEqual({
      type: 'interrupted',
      id: '4711',
      name: 'greet',
      identifier: null,
      attempt: 1,
      willRetry: false,
      instanceId,
    });
    expect(rescued).toEqual({ type: 'rescued', instanceId, host: 'gone', pid: 42, calls: 1 });
  });
});

it('the log names failed and interrupted calls, and says nothing of those that complete', async () => {
  const lines: [string, string][] = [];
  class Recorder {
    log = (message: string, context: string) => context === 'FutureCall' && lines.push(['log', message]);
    error = (message: string) => lines.push(['error', message]);
    warn = (message: string) => lines.push(['warn', message]);
    debug = () => {};
    verbose = () => {};
  }
  const { service, close } = await bootApp(database, {
    providers: [Greet, Fail],
    logger: new Recorder() as never,
  });
  const completed = nextOf(service, 'completed');
  await service.callWithDelay(Greet, null, 0);
  await completed;
  const failed = firstValueFrom(
    service.events.pipe(
      filter(({ type }) => type === 'failed'),
      take(2),
      toArray(),
    ),
  );
  const { id } = await service.callWithDelay(Fail, null, 0, { identifier: 'x' });
  await failed;
  await close();
  Logger.overrideLogger(false);
  expect(lines).toEqual([
    ['log', expect.stringMatching(/^Instance \d+ runs future calls, 10 at a time: greet, fail\.$/)],
    [
      'warn',
      `Future call "fail" (id ${id}, attempt 1, identifier "x") failed, and is tried again in 0ms: TypeError: no`,
    ],
    ['error', `Future call "fail" (id ${id}, attempt 2, identifier "x") failed: TypeError: no`],
    ['log', expect.stringMatching(/^Instance \d+ has stopped\.$/)],
  ]);
});
