import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import {
  FutureCall,
  type FutureCallContext,
  type FutureCallHandler,
  type FutureCallHandlerOptions,
} from '../../lib/index.js';
import { bootApp, createTables, type BootedApp } from '../support/app.js';
import { createDatabase, type TestDatabase } from '../support/database.js';
import { engineOf } from '../support/engine.js';
import { countStatements, countsStatements } from '../support/statements.js';
import { until } from '../support/until.js';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
  await createTables(database);
});
beforeEach(() => database.query('truncate future_call, future_call_running, future_call_outcome'));
afterAll(() => database.drop());

type Invoke = (data: unknown, call: FutureCallContext) => unknown;

function handler(name: string, invoke: Invoke, options: FutureCallHandlerOptions = {}) {
  @FutureCall(name, options)
  class Handler implements FutureCallHandler {
    invoke(data: unknown, call: FutureCallContext) {
      return invoke(data, call);
    }
  }
  return Handler;
}

function gate() {
  let open!: () => void;
  const opened = new Promise<void>((resolve) => (open = resolve));
  return { open, opened };
}

const insert = (name: string, count: number, data: unknown = null) =>
  database.query(
    `insert into future_call (name, data, due_at) select $1, $2::text::jsonb, now() from generate_series(1, $3)`,
    [name, JSON.stringify(data), count],
  );

const count = async (table: string, where = 'true') =>
  Number((await database.query<{ count: string }>(`select count(*) from ${table} where ${where}`))[0]!.count);

function keepTheLoop(milliseconds: number) {
  const end = performance.now() + milliseconds;
  while (performance.now() < end);
}

/** Boots instances, each with so many slots, whose handler says what it holds when it starts a call. */
async function shareOut(
  calls: number,
  { instances, slots, invoke }: { instances: number; slots: number; invoke: () => unknown },
) {
  const apps: BootedApp[] = [];
  let started = 0;
  let mostWaiting = 0;
  for (let n = 0; n < instances; n++) {
    const Handler = handler('shared', () => {
      started++;
      const { slots: held } = engineOf(apps[n]!.app);
      mostWaiting = Math.max(mostWaiting, held.queuedCalls().length);
      return invoke();
    });
    apps.push(
      await bootApp(database, { providers: [Handler], options: { concurrency: slots, pollInterval: '1h' } }),
    );
  }
  await apps[0]!.service.callMany(Array.from({ length: calls }, () => ({ handler: 'shared', delay: 0 })));
  await until(async () => started === calls, 'all have started');
  return mostWaiting;
}

describe('a handler that is slow', () => {
  it('claims nothing ahead of its slots, although many of its calls end at one moment', async () => {
    // Three slots, of which one starts when the others are in the queue.
    const waiting = await shareOut(60, { instances: 3, slots: 3, invoke: () => sleep(60) });
    expect(waiting).toBeLessThan(3);
  });

  it.each([10, 1_000])(
    'and keeps the event loop has about 50 ms of work ahead, with %d slots',
    async (slots) => {
      const waiting = await shareOut(200, { instances: 2, slots, invoke: () => keepTheLoop(5) });
      expect(waiting).toBeLessThanOrEqual(10);
    },
  );

  it('all of a sudden gives back what it claimed ahead, and another instance runs it', async () => {
    const hangs = gate();
    const ran = new Set<string>();
    let behind = 0;
    const Slow = handler('turns slow', (_data, { id }) => {
      ran.add(id);
      if (behind > 0) return undefined;
      const queued = engineOf(app).slots.queuedCalls().length;
      if (queued < 100) return undefined;
      behind = queued;
      return hangs.opened;
    });
    const options = { concurrency: 1, pollInterval: '1h' } as const;
    const { app, service } = await bootApp(database, { providers: [Slow], options });
    const released = new Set<string>();
    service.events.subscribe((event) => event.type === 'released' && released.add(event.id));
    await service.callMany(Array.from({ length: 5_000 }, () => ({ handler: 'turns slow', delay: 0 })));
    await until(
      async () => (await count('future_call_running')) === 1 && (await count('future_call')) > 0,
      'only the one that hangs is claimed',
    );
    expect(released.size).toBeGreaterThanOrEqual(behind);
    expect(await count('future_call', 'attempt > 0')).toBe(0);
    expect([...released].filter((id) => ran.has(id))).toEqual([]);

    const elsewhere = new Set<string>();
    await bootApp(database, {
      providers: [handler('turns slow', (_data, { id }) => void elsewhere.add(id))],
      options,
    });
    await until(async () => (await count('future_call')) === 0, 'the others have run elsewhere');
    await until(async () => (await count('future_call_running')) === 1, 'all of them have ended');
    expect([...released].every((id) => elsewhere.has(id))).toBe(true);
    expect(elsewhere.size + ran.size).toBe(5_000);
    hangs.open();
  });
});

describe('a row that a transaction of the user holds', () => {
  it('and that it would have cancelled starts soon after the rollback, though nobody tells', async ({
    skip,
  }) => {
    skip(!(await countsStatements(database)), 'the server was started without pg_stat_statements');
    const ran = gate();
    const { service, dataSource } = await bootApp(database, {
      providers: [handler('kept', () => ran.open())],
      options: { pollInterval: '1h' },
    });
    const runner = dataSource.createQueryRunner();
    await runner.startTransaction();
    try {
      await service.callWithDelay('kept', null, 300, { identifier: 'kept' });
      await service.cancel('kept', { manager: runner.manager });
      await until(async () => (await count('future_call', 'due_at < now()')) === 1, 'it is due');
      // It is looked for, and passed over.
      const counts = await countStatements(database);
      await until(async () => (await counts())['claim'], 'it is looked for again');
      await runner.rollbackTransaction();
    } finally {
      await runner.release();
    }
    await ran.opened;
  });

  // A small claim tells at once what it has passed over. Whether a large one has, is looked for after a second.
  it.each([{ slots: 10 }, { slots: 200 }])(
    'starts soon after the rollback too when a backlog has gone by, with $slots slots',
    async ({ slots }) => {
      const ran: unknown[] = [];
      const { service } = await bootApp(database, {
        providers: [handler('passed over', (data) => void ran.push(data))],
        options: { pollInterval: '1h', concurrency: slots },
      });
      await service.callWithDelay('passed over', 'first', 0);
      await until(async () => ran.length === 1, 'its watermark is there');
      await insert('passed over', 1, 'held');
      const client = await database.pool.connect();
      try {
        await client.query('begin');
        await client.query('delete from future_call');
        await insert('passed over', 4 * slots, 'behind');
        await service.callWithDelay('passed over', 'last', 0);
        await until(async () => ran.length === 4 * slots + 2, 'the others have run');
        await client.query('rollback');
      } finally {
        client.release();
      }
      await until(async () => ran.at(-1) === 'held', 'it runs', 20_000);
    },
  );

  it('holds up nothing else, in any table', async () => {
    const held = gate();
    const starts: string[] = [];
    const Fails = handler('fails', () => {
      throw new Error('on purpose');
    });
    const Retries = handler(
      'retries',
      (_data, { id, attempt }) => {
        starts.push(`${id} ${attempt}`);
        if (attempt === 1) throw new Error('on purpose');
      },
      { attempts: 2, backoff: { type: 'fixed', delay: 0 } },
    );
    const Waits = handler('waits', () => held.opened);
    const { app, service } = await bootApp(database, {
      providers: [Fails, Retries, Waits, handler('works', () => undefined)],
      options: { rescueAfter: 500, retention: { completed: '1s', failed: '1s' } },
    });
    // One of each: a pending call, one that runs and will end, one of a dead instance beside another of it, an old outcome.
    await insert('works', 1);
    await service.callWithDelay('waits', null, 0);
    await until(async () => (await count('future_call_running', `name = 'waits'`)) === 1, 'it runs');
    await until(async () => (await count('future_call_outcome')) === 1, 'one has an outcome');
    await database.query(`
      insert into future_call_instance (id, host, pid, handlers, poll_interval, started_at)
        values (100000, 'gone', 1, '{}', 1000, now()), (100001, 'gone', 2, '{}', 1000, now());
      insert into future_call_running (id, name, due_at, attempt, instance_id, claim, created_at, claimed_at)
        values (100000, 'works', now(), 1, 100000, 1, now(), now()), (100001, 'works', now(), 1, 100000, 1, now(), now())`);
    const client = await database.pool.connect();
    try {
      await client.query('begin');
      await client.query(`
        insert into future_call (id, name, due_at) values (100002, 'elsewhere', now());
        select from future_call_running where name = 'waits' or id = 100000 for update;
        select from future_call_instance where id = 100001 for update;
        select from future_call_outcome for update`);
      held.open();
      const ids = (
        await service.callMany(
          Array.from({ length: 30 }, (_, n) => ({
            handler: ['works', 'fails', 'retries'][n % 3]!,
            delay: 0,
          })),
        )
      ).map(({ id }) => id);
      await until(
        async () =>
          (await count('future_call_running', `id < 100000 and name <> 'waits'`)) === 0 &&
          (await count('future_call', 'id < 100000')) === 0,
        'everything else ends',
      );
      expect(starts.length).toBe(20);
      await until(
        async () => (await count('future_call_running', 'id = 100001')) === 0,
        'the dead one is rescued',
      );
      expect(await count('future_call_running', 'id = 100000')).toBe(1);
      await until(
        async () => (await count('future_call_outcome', `call_id in (${ids.join()})`)) === 0,
        'old outcomes are pruned',
      );
      expect(await count('future_call_running', `name = 'waits'`)).toBe(1);
      expect(engineOf(app).session.isOpen).toBe(true);
    } finally {
      await client.query('rollback');
      client.release();
    }
    await until(async () => (await count('future_call_running')) === 0, 'and what was held, too');
    await until(async () => (await count('future_call_instance', 'id >= 100000')) === 0, 'the dead are gone');
  });
});
