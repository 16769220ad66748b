import os from 'node:os';
import { DataSource } from 'typeorm';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { FutureCall, type FutureCallContext } from '../../lib/index.js';
import { bootApp, createTables } from '../support/app.js';
import { engineOf } from '../support/engine.js';
import { createDatabase, type TestDatabase } from '../support/database.js';
import { LogLines } from '../support/log-lines.js';
import { until } from '../support/until.js';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
  await createTables(database);
});
beforeEach(() => database.query('truncate future_call, future_call_running, future_call_outcome'));
afterAll(() => database.drop());

const insert = (name: string, count: number) =>
  database.query(
    `insert into future_call (name, data, due_at)
     select $1, to_jsonb(n), now() - (n % 100) * interval '1 s' from generate_series(1, $2) n`,
    [name, count],
  );

const count = async (table: string) =>
  Number((await database.query<{ n: string }>(`select count(*) as n from ${table}`))[0]!.n);

/** A promise and its resolve, for handlers that wait for the test. */
function gate() {
  let open!: () => void;
  const opened = new Promise<void>((resolve) => (open = resolve));
  return { open, opened };
}

describe('a handler', () => {
  it('gets its calls oldest due first', async () => {
    const ran: FutureCallContext[] = [];
    @FutureCall('ordered')
    class Ordered {
      invoke(_data: number, call: FutureCallContext) {
        ran.push(call);
      }
    }
    await insert('ordered', 3_000);
    await bootApp(database, { providers: [Ordered] });
    await until(async () => ran.length === 3_000, 'all have run');
    const order = ran.map(({ dueAt, id }) => dueAt.getTime() * 1e6 + Number(id));
    expect(order).toEqual(order.toSorted((a, b) => a - b));
  });

  it('runs no more calls at a time than its own concurrency, and the module no more than its own', async () => {
    const most = { slow: 0, other: 0, all: 0 };
    const now = { slow: 0, other: 0, all: 0 };
    const may = { slow: gate(), other: gate() };
    const track = async (name: 'slow' | 'other') => {
      for (const key of [name, 'all'] as const) most[key] = Math.max(most[key], ++now[key]);
      await may[name].opened;
      await new Promise((resolve) => setTimeout(resolve, 2));
      for (const key of [name, 'all'] as const) now[key]--;
    };
    @FutureCall('slow', { concurrency: 2 })
    class Slow {
      invoke() {
        return track('slow');
      }
    }
    @FutureCall('other')
    class Other {
      invoke() {
        return track('other');
      }
    }
    await insert('slow', 100);
    await insert('other', 300);
    await bootApp(database, { providers: [Slow, Other], options: { concurrency: 7 } });
    await until(async () => now.all === 7, 'every slot is taken');
    may.slow.open();
    await until(async () => now.other === 7, 'the other one has every slot');
    may.other.open();
    await until(
      async () => (await count('future_call')) + (await count('future_call_running')) === 0,
      'all have run',
    );
    expect(most).toEqual({ slow: 2, other: 7, all: 7 });
  });

  it('runs as many calls in each process: neither limit is shared among instances', async () => {
    const { open, opened } = gate();
    let runs = 0;
    class Held {
      invoke() {
        runs++;
        return opened;
      }
    }
    @FutureCall('limited', { concurrency: 1 })
    class Limited extends Held {}
    @FutureCall('unlimited')
    class Unlimited extends Held {}
    const options = { concurrency: 3, pollInterval: 100 };
    for (let i = 0; i < 2; i++) await bootApp(database, { providers: [Limited, Unlimited], options });
    await insert('limited', 5);
    await until(async () => runs === 2, 'each instance runs one');
    await insert('unlimited', 10);
    await until(async () => runs === 6, 'each instance runs two beside it');
    expect(await count(`future_call_running where name = 'limited'`)).toBe(2);
    open();
    await until(async () => runs === 15, 'all have run');
  });

  it('that is busy does not keep another one waiting', async () => {
    const { open, opened } = gate();
    const others = gate();
    @FutureCall('stuck', { concurrency: 3 })
    class Stuck {
      invoke() {
        return opened;
      }
    }
    @FutureCall('free')
    class Free {
      invoke() {
        others.open();
      }
    }
    const { service } = await bootApp(database, { providers: [Stuck, Free], options: { concurrency: 4 } });
    await insert('stuck', 1_000);
    await service.callWithDelay(Stuck, null, 0);
    await until(
      async () => (await count('future_call_running')) === 3,
      'the stuck handler has all its slots',
    );
    await service.callWithDelay(Free, null, 0);
    await others.opened;
    open();
  });

  it('that waits for nothing leaves turns of the event loop to the app', async () => {
    let ran = 0;
    let inTurn = 0;
    let most = 0;
    @FutureCall('quick')
    class Quick {
      async invoke() {
        ran++;
        most = Math.max(most, ++inTurn);
      }
    }
    (function turn() {
      inTurn = 0;
      if (ran < 10_000) setImmediate(turn);
    })();
    await insert('quick', 10_000);
    await bootApp(database, { providers: [Quick], options: { concurrency: 4_000 } });
    await until(async () => ran === 10_000, 'all have run');
    // Eight times as many are claimed at once.
    expect(most).toBe(500);
  });

  it('that ends synchronously, or answers with something else than a promise, has completed', async () => {
    const ran: unknown[] = [];
    @FutureCall('sync')
    class Sync {
      invoke(data: unknown) {
        ran.push(data);
        return { not: 'a promise' };
      }
    }
    await insert('sync', 20_000);
    await bootApp(database, { providers: [Sync] });
    await until(
      async () => (await count('future_call')) + (await count('future_call_running')) === 0,
      'all have ended',
    );
    expect(ran.length).toBe(20_000);
    expect(await count('future_call_outcome')).toBe(0);
  });

  it('that ends its last call at once, started by the end of one that took time, goes on with the next', async () => {
    let ran = 0;
    @FutureCall('mixed')
    class Mixed {
      invoke() {
        return ++ran < 100 ? new Promise<void>((resolve) => setImmediate(resolve)) : undefined;
      }
    }
    await insert('mixed', 100);
    // No poll to the rescue.
    const options = { concurrency: 1, pollInterval: '1h' };
    const { service } = await bootApp(database, { providers: [Mixed], options });
    await until(async () => ran === 100, 'all have run');
    await service.callWithDelay('mixed', null, 0);
    await until(async () => ran === 101, 'the next one has run');
  });

  it('that throws: its error is kept, it is not run again, and nothing else is disturbed', async () => {
    let runs = 0;
    @FutureCall('bad')
    class Bad {
      async invoke(data: string) {
        runs++;
        throw new TypeError(`no ${data}`, { cause: new Error('deep', { cause: 'deeper' }) });
      }
    }
    const good = gate();
    @FutureCall('good')
    class Good {
      invoke() {
        good.open();
      }
    }
    const { service } = await bootApp(database, { providers: [Bad, Good] });
    const call = await service.callWithDelay(Bad, 'luck', 0, { identifier: 'a label' });
    await service.callWithDelay(Good, null, 0);
    await good.opened;
    const [row] = await until(async () => {
      const rows = await database.query('select * from future_call_outcome');
      return rows.length > 0 && rows;
    }, 'the outcome is there');
    expect(row).toMatchObject({
      call_id: call.id,
      name: 'bad',
      identifier: 'a label',
      data: 'luck',
      due_at: call.dueAt,
      attempt: 1,
      outcome: 'failed',
      pid: process.pid,
      errors: [
        {
          attempt: 1,
          name: 'TypeError',
          message: 'no luck',
          stack: expect.stringContaining('invoke'),
          cause: { name: 'Error', message: 'deep', cause: { name: 'string', message: 'deeper' } },
        },
      ],
    });
    expect(Date.parse((row as { errors: { at: string }[] }).errors[0]!.at)).toBeGreaterThanOrEqual(
      call.dueAt.getTime(),
    );
    expect(runs).toBe(1);
  });

  it('that throws: its outcome says where it ran and when, and when it was scheduled', async () => {
    let during = new Date(0);
    @FutureCall('late')
    class Late {
      constructor(private readonly dataSource: DataSource) {}
      async invoke() {
        const [{ now }] = await this.dataSource.query<[{ now: Date }]>(
          'select pg_sleep(0.01), clock_timestamp() as now',
        );
        during = now;
        throw new Error('x');
      }
    }
    await database.query(
      `insert into future_call (name, due_at, created_at)
       values ('late', '2020-02-02 00:00Z', '2020-01-01 00:00Z')`,
    );
    await bootApp(database, { providers: [Late] });
    const [row] = await until(async () => {
      const rows = await database.query<{ started_at: Date; finished_at: Date }>(`
        select o.due_at, o.created_at, o.host, o.pid, i.host as its_host, i.pid as its_pid, o.started_at, o.finished_at
        from future_call_outcome o join future_call_instance i on i.id = o.instance_id`);
      return rows.length > 0 && rows;
    }, 'the outcome is there');
    expect(row).toMatchObject({
      due_at: new Date('2020-02-02T00:00:00Z'),
      created_at: new Date('2020-01-01T00:00:00Z'),
      host: os.hostname(),
      its_host: os.hostname(),
      pid: process.pid,
      its_pid: process.pid,
    });
    expect(row!.started_at.getTime()).toBeLessThan(during.getTime());
    expect(row!.finished_at.getTime()).toBeGreaterThanOrEqual(during.getTime());
  });

  it('may answer with what cannot even be looked at: that is a failure, and its slot is free again', async () => {
    @FutureCall('trap', { concurrency: 1 })
    class Trap {
      invoke() {
        // oxlint-disable-next-line unicorn/no-thenable
        return Object.defineProperty({}, 'then', {
          get() {
            throw new Error('a trap');
          },
        }) as unknown;
      }
    }
    const { service } = await bootApp(database, { providers: [Trap] });
    await service.callMany([
      { handler: Trap, delay: 0 },
      { handler: Trap, delay: 0 },
    ]);
    await until(async () => (await count('future_call_outcome')) === 2, 'both have failed');
  });

  it.each([
    ['undefined', undefined, 'undefined', 'undefined'],
    ['a string', 'just text', 'string', 'just text'],
    ['null', null, 'null', 'null'],
    ['text that PostgreSQL cannot store', new Error('a\0b\ud800'), 'Error', 'a\\0b\ufffd'],
    [
      'an error that is its own cause',
      (() => {
        const error = new Error('round');
        error.cause = error;
        return error;
      })(),
      'Error',
      'round',
    ],
  ])('may throw %s', async (_what, thrown, name, message) => {
    @FutureCall('throws')
    class Throws {
      invoke() {
        throw thrown;
      }
    }
    const { service } = await bootApp(database, { providers: [Throws] });
    const { id } = await service.callWithDelay(Throws, null, 0);
    const [row] = await until(async () => {
      const rows = await database.query('select errors from future_call_outcome where call_id = $1', [id]);
      return rows.length > 0 && rows;
    }, 'the outcome is there');
    expect(row).toMatchObject({ errors: [{ name, message }] });
  });
});

describe('an instance', () => {
  it('ends running calls that no instance is there for, even without a row', async () => {
    await database.query(
      `insert into future_call_running (id, name, due_at, attempt, created_at, instance_id, claim) values (4242, 'lost', now(), 1, now(), 4242, 1)`,
    );
    await bootApp(database, { options: { rescueAfter: 500 } });
    const [row] = await until(async () => {
      const rows = await database.query('select call_id, outcome, host from future_call_outcome');
      return rows.length > 0 && rows;
    }, 'the call has its outcome');
    expect(row).toEqual({ call_id: '4242', outcome: 'interrupted', host: null });
  });

  it('rescues one although the rescue of another fails', async () => {
    await database.query(`
      create or replace function refuse() returns trigger language plpgsql as $$ begin
        if new.name = 'poison' then raise exception 'refused by a trigger'; end if;
        return new;
      end $$;
      create trigger refuse before insert on future_call_outcome for each row execute function refuse()`);
    try {
      await database.query(`
        insert into future_call_instance (id, host, pid, poll_interval, handlers) values (9001, 'a', 1, 1, '{}'), (9002, 'b', 2, 1, '{}');
        insert into future_call_running (id, name, due_at, attempt, created_at, instance_id, claim)
        values (9001, 'poison', now(), 1, now(), 9001, 1), (9002, 'fine', now(), 1, now(), 9002, 1)`);
      await bootApp(database, { options: { rescueAfter: 500 } });
      await until(async () => (await count('future_call_outcome')) === 1, 'the other one is rescued');
      expect(await database.query('select name from future_call_outcome')).toEqual([{ name: 'fine' }]);
    } finally {
      await database.query('drop function refuse cascade; truncate future_call_instance');
    }
  });

  it('that finds another one living under its id becomes a new one, and takes nothing from it', async () => {
    const { open, opened } = gate();
    let runs = 0;
    @FutureCall('held')
    class Held {
      invoke() {
        runs++;
        return opened;
      }
    }
    // Long enough for nobody to look after the id that it leaves.
    const first = await bootApp(database, { providers: [Held], options: { rescueAfter: '1m' } });
    await first.service.callWithDelay(Held, null, 0);
    await until(async () => runs === 1, 'the call runs');
    const [instance] = await database.query<{ id: number; started: string }>(
      'select id, started_at::text as started from future_call_instance order by id desc limit 1',
    );
    // As if the sequence had gone back, and somebody else had registered under the same id.
    await database.query(
      `update future_call_instance set started_at = started_at + interval '1 s' where id = $1`,
      [instance!.id],
    );
    const back = new Promise<number>((resolve) =>
      first.service.events.subscribe((event) => event.type === 'connected' && resolve(event.instanceId)),
    );
    await database.query(
      `select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'future-call instance%' and datname = current_database()`,
    );
    expect(await back).not.toBe(instance!.id);
    expect(await database.query('select instance_id from future_call_running')).toEqual([
      { instance_id: instance!.id },
    ]);
    expect(runs).toBe(1);
    open();
    await until(async () => (await count('future_call_running')) === 0, 'the call is recorded');
    await database.query('truncate future_call_instance');
  });
});

describe('claiming', () => {
  it('leaves a call alone that an open transaction is cancelling, and finds it after the rollback', async () => {
    const ran = gate();
    const witness = gate();
    @FutureCall('witness')
    class Witness {
      invoke() {
        witness.open();
      }
    }
    @FutureCall('cancelled')
    class Cancelled {
      invoke() {
        ran.open();
      }
    }
    const providers = [Cancelled, Witness];
    const { service, dataSource } = await bootApp(database, { providers, options: { execute: false } });
    const runner = dataSource.createQueryRunner();
    await runner.startTransaction();
    await service.callWithDelay(Cancelled, null, 0, { identifier: 'x' });
    expect(await service.cancel('x', { manager: runner.manager })).toBe(1);
    await bootApp(database, { providers, options: { pollInterval: 200 } });
    await service.callWithDelay(Witness, null, 0);
    await witness.opened;
    expect(await count('future_call')).toBe(1);
    await runner.rollbackTransaction();
    await runner.release();
    await ran.opened;
  });
});

describe('a call with the id of another one', () => {
  it('replaces its outcome: who repeats a failed call by hand may keep its id', async () => {
    let message = 'first';
    @FutureCall('again')
    class Again {
      invoke() {
        throw new Error(message);
      }
    }
    const { service } = await bootApp(database, { providers: [Again], options: { pollInterval: 100 } });
    const { id } = await service.callWithDelay(Again, null, 0);
    const messageOf = () =>
      database
        .query<{ message: string }>(`select errors->0->>'message' as message from future_call_outcome`)
        .then(([row]) => row?.message);
    await until(async () => (await messageOf()) === 'first', 'it has failed');
    message = 'second';
    await database.query(`insert into future_call (id, name, due_at) values ($1, 'again', now())`, [id]);
    await until(async () => (await messageOf()) === 'second', 'it has failed again');
  });

  it('waits while that one runs, and keeps no other one waiting', async () => {
    const { open, opened } = gate();
    let held = 0;
    @FutureCall('hold')
    class Hold {
      invoke() {
        held++;
        return opened;
      }
    }
    const other = gate();
    @FutureCall('other')
    class Other {
      invoke() {
        other.open();
      }
    }
    const { service } = await bootApp(database, { providers: [Hold, Other], options: { pollInterval: 100 } });
    const { id } = await service.callWithDelay(Hold, null, 0);
    await until(async () => held === 1, 'it runs');
    await database.query(
      `insert into future_call (id, name, due_at) values ($1, 'hold', now() - interval '1 day')`,
      [id],
    );
    // As many attempts as an integer can count are no obstacle either.
    await database.query(
      `insert into future_call (name, due_at, attempt) values ('other', now(), 2147483647)`,
    );
    await other.opened;
    expect(held).toBe(1);
    open();
    await until(async () => held === 2, 'its twin runs too');
  });

  it('whose end cannot be recorded does not keep others from being recorded', async () => {
    await database.query(`
      create or replace function refuse() returns trigger language plpgsql as $$ begin
        if new.data = '"poison"' then raise exception 'refused by a trigger'; end if;
        return new;
      end $$;
      create trigger refuse before insert on future_call_outcome for each row execute function refuse()`);
    try {
      @FutureCall('throws')
      class Throws {
        invoke() {
          throw new Error('x');
        }
      }
      await database.query(
        `insert into future_call (name, data, due_at) select 'throws', case n when 50 then '"poison"' else '1' end::jsonb, now() from generate_series(1, 100) n`,
      );
      const { app } = await bootApp(database, { providers: [Throws] });
      await until(async () => (await count('future_call_outcome')) === 99, 'all others are recorded');
      expect(await count('future_call_running')).toBe(1);
      // As when a session that was lost is back: what has run is known, and is not released.
      const known = engineOf(app).executor.knownCalls();
      await engineOf(app).releaser.releaseUnknown(known);
      expect(await count('future_call_running')).toBe(1);
      await database.query('drop trigger refuse on future_call_outcome');
      await until(async () => (await count('future_call_outcome')) === 100, 'the last one is recorded too');
    } finally {
      await database.query('drop function refuse cascade');
    }
  });

  it('whose end is refused as all others are is told of once, and tried by one of them until it works', async () => {
    await database.query(`
      create sequence tries;
      create function refuse() returns trigger language plpgsql as $$
        begin perform nextval('public.tries'); raise exception 'refused by a trigger'; end $$;
      create trigger refuse before insert on future_call_outcome for each statement execute function refuse()`);
    const tries = async () =>
      (await database.query<{ n: number }>('select last_value::int as n from tries'))[0]!.n;
    try {
      let ran = 0;
      @FutureCall('throws')
      class Throws {
        invoke() {
          ran++;
          throw new Error('x');
        }
      }
      @FutureCall('works')
      class Works {
        invoke() {}
      }
      const logger = new LogLines();
      const { service } = await bootApp(database, { providers: [Throws, Works], logger });
      await insert('throws', 500);
      await until(async () => ran === 500, 'all have failed');
      const before = await tries();
      await until(async () => (await tries()) > before + 1, 'it is tried again and again');
      // To find out that all are refused, and then one each time.
      expect(await tries()).toBeLessThan(60);
      expect(logger.warnings).toEqual([expect.stringMatching(/^Recording how "throws" \(id \d+\)/)]);
      const { id } = await service.callWithDelay(Works, null, 0);
      const left = `select from future_call union all select from future_call_running where id = ${id}`;
      await until(async () => (await database.query(left)).length === 0, 'one that completes is recorded');
      await database.query('drop trigger refuse on future_call_outcome');
      await until(async () => (await count('future_call_outcome')) === 500, 'all of them are recorded');
      expect(await count('future_call_running')).toBe(0);
    } finally {
      await database.query('drop function refuse cascade; drop sequence tries');
    }
  });

  it('whose row somebody has taken away is not taken as recorded, whatever becomes of the others', async () => {
    const { open, opened } = gate();
    let held = 0;
    @FutureCall('hold')
    class Hold {
      async invoke() {
        held++;
        await opened;
      }
    }
    const logger = new LogLines();
    const { service } = await bootApp(database, { providers: [Hold], logger });
    const ids = (await service.callMany(Array.from({ length: 5 }, () => ({ handler: Hold, delay: 0 })))).map(
      ({ id }) => id,
    );
    await until(async () => held === 5, 'all of them run');
    const completed: string[] = [];
    service.events.subscribe((event) => event.type === 'completed' && completed.push(event.id));
    await database.query('delete from future_call_running');
    open();
    await until(async () => logger.warnings.length > 0, 'it is told of');
    expect(logger.warnings).toEqual([
      expect.stringMatching(
        new RegExp(
          `^How "hold" \\(id ${ids[0]}\\) and 4 other calls ended is not recorded: somebody has taken their rows`,
        ),
      ),
    ]);
    expect(completed).toEqual([]);
  });

  it('whose end was not recorded before the drain gave up is not released when the session comes back', async () => {
    await database.query(`
      create or replace function refuse() returns trigger language plpgsql as $$ begin
        raise exception 'refused by a trigger';
      end $$;
      create trigger refuse before delete on future_call_running for each row execute function refuse()`);
    try {
      let runs = 0;
      @FutureCall('once')
      class Once {
        invoke() {
          runs++;
        }
      }
      const logger = new LogLines();
      await insert('once', 1);
      const { app } = await bootApp(database, { providers: [Once], logger });
      await until(
        async () => logger.warnings.some((line) => line.startsWith('Recording how "once"')),
        'it is set aside',
      );
      engineOf(app).completer.stop();
      await database.query('drop trigger refuse on future_call_running');
      const known = engineOf(app).executor.knownCalls();
      await engineOf(app).releaser.releaseUnknown(known);
      expect(await count('future_call_running')).toBe(1);
      expect(runs).toBe(1);
    } finally {
      await database.query('drop function refuse cascade');
    }
  });
});
