import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { FutureCall, type FutureCallContext, type FutureCallHandler } from '../../lib/index.js';
import { bootApp, createTables } from '../support/app.js';
import { createDatabase, type TestDatabase } from '../support/database.js';
import { until } from '../support/until.js';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
  await createTables(database);
});
afterEach(() => {
  vi.useRealTimers();
});
afterAll(() => database.drop());

const runs: string[] = [];

@FutureCall('fails once', { attempts: 2, backoff: { type: 'fixed', delay: 50 } })
class FailsOnce implements FutureCallHandler<string> {
  invoke(data: string, { attempt }: FutureCallContext) {
    runs.push(`${data}, attempt ${attempt}`);
    if (attempt === 1) throw new Error('on purpose');
  }
}

const hasRun = (what: string) => until(async () => runs.includes(what), what);

/** Moves the faked clock, on which nothing of ours may depend. */
function fake() {
  vi.useFakeTimers({ now: Date.parse('2031-05-05T05:05:05Z') });
  const frozen = performance.now();
  expect(performance.now()).toBe(frozen);
}

describe("a test's fake timers", () => {
  it('that come after the boot stop nothing: calls are due, retried, polled for and rescued as ever', async () => {
    const { service, close } = await bootApp(database, {
      providers: [FailsOnce],
      options: { pollInterval: 100, rescueAfter: 500 },
    });
    fake();
    await service.callWithDelay(FailsOnce, 'due at once', 0);
    await hasRun('due at once, attempt 2');
    const before = await databaseNow();
    const { dueAt } = await service.callWithDelay(FailsOnce, 'due later', 200);
    expect(dueAt.getTime()).toBeGreaterThanOrEqual(before + 200);
    await hasRun('due later, attempt 2');
    await database.query(
      `insert into future_call (name, data, due_at) values ('fails once', '"announced by nobody"', now())`,
    );
    await hasRun('announced by nobody, attempt 2');
    await database.query(`insert into future_call_instance (id, host, pid, poll_interval, handlers)
      values (1000000, 'a dead one', 1, 1000, '{}')`);
    await until(
      async () => (await database.query('select from future_call_instance where id = 1000000')).length === 0,
      'the dead instance is rescued',
    );
    await close();
    expect(await database.query('select from future_call_instance')).toEqual([]);
  });

  it('that were there at boot and are taken away leave no dead timer', async () => {
    fake();
    const { close } = await bootApp(database, { providers: [FailsOnce], options: { pollInterval: 100 } });
    await database.query(
      `insert into future_call (name, data, due_at) values ('fails once', '"under fakes"', now())`,
    );
    await hasRun('under fakes, attempt 2');
    vi.useRealTimers();
    await database.query(
      `insert into future_call (name, data, due_at) values ('fails once', '"under none"', now())`,
    );
    await hasRun('under none, attempt 2');
    await close();
  });
});

async function databaseNow(): Promise<number> {
  const [row] = await database.query<{ now: number }>(
    'select extract(epoch from clock_timestamp())::float8 * 1000 as now',
  );
  return row!.now;
}
