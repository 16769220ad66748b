import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { lines, LOST, tally, told } from './support/evidence.js';
import { figure, inWorld } from './support/in-world.js';
import { RESCUE_AFTER } from './support/world.js';

const HOUR = 3_600_000;

describe.concurrent('A pool of one connection that handlers keep busy for a minute', () => {
  it(
    'holds up neither claims nor ends, neither the lock nor a rescue',
    inWorld(async (world) => {
      const app = await world.run({ typeorm: { poolSize: 1 } });
      const instance = await world.instanceOf(app);
      // Ten handlers at a time wait for one connection, 100 ms each.
      const ids = await world.scheduleMany(600, 'call', { sql: 'select pg_sleep(0.1)' });
      await app.waitFor('ended');

      // Meanwhile another one dies.
      const victim = await world.run({ handlers: { mine: {} } });
      const held = await world.schedule('mine', { hold: true });
      await victim.waitFor('holding');
      await victim.kill();
      expect(tally(await world.untilEnded([held]))).toEqual({ 'interrupted 1': 1 });
      expect(told(app, 'rescued')).toHaveLength(1);
      expect((await world.ended(ids)).length).toBeLessThan(600);

      expect(tally(await world.untilEnded(ids, 150_000))).toEqual({ 'completed 1': 600 });
      expect(await world.instanceOf(app)).toBe(instance);
      expect(lines(app, LOST)).toBe(0);
    }),
  );

  it(
    'lets a handler schedule within its own transaction',
    inWorld(async (world) => {
      const app = await world.run({ typeorm: { poolSize: 1 } });
      const parents = await world.scheduleMany(20, 'call', { scheduleInTransaction: 'call' });
      await app.waitForCount('scheduled', 20);
      const children = told(app, 'scheduled').map(({ id }) => id as string);
      await world.accept(children);
      expect(tally(await world.untilEnded([...parents, ...children]))).toEqual({ 'completed 1': 40 });
    }),
  );
});

describe.concurrent('A process whose clock is an hour wrong', () => {
  it.for([
    ['ahead', HOUR],
    ['behind', -HOUR],
  ] as const)('(%s) starts no call before it is due, nor later than another one does', ([, offset]) =>
    inWorld(async (world) => {
      const app = await world.run({ env: { CLOCK_OFFSET: String(offset) }, options: { pollInterval: '1h' } });
      // What it schedules itself, and what others schedule: neither its own clock nor ours decides.
      app.send({ type: 'schedule', handler: 'call', delay: 700 });
      const at = new Date((await world.now()) + 1_400);
      app.send({ type: 'schedule', handler: 'call', at: at.toISOString() });
      await app.waitForCount('scheduled', 2);
      const ids = told(app, 'scheduled').map(({ id }) => id as string);
      await world.accept(ids);
      ids.push(await world.schedule('call', null, 1_000), await world.schedule('again', { fail: 1 }, 500));
      await world.untilEnded(ids);
      const rows = await world.database.query<{ late: number }>(
        `select extract(epoch from at - due_at)::float8 * 1000 as late
         from started join future_call_outcome using (call_id) where started.attempt = future_call_outcome.attempt`,
      );
      expect(rows).toHaveLength(4);
      for (const { late } of rows) expect(late).toBeGreaterThanOrEqual(0);
      figure('at most so many ms after the due time', Math.max(...rows.map(({ late }) => late)));
    })(),
  );

  it(
    'keeps its lock, and neither rescues others nor is rescued',
    inWorld(async (world) => {
      const apps = await Promise.all([
        world.run({ env: { CLOCK_OFFSET: String(HOUR) } }),
        world.run({ env: { CLOCK_OFFSET: String(-HOUR) } }),
        world.run(),
      ]);
      const ids = await world.scheduleMany(30, 'call', { hold: true });
      await Promise.all(apps.map((app) => app.waitForCount('holding', 10)));
      // As long as it takes to find somebody dead.
      await sleep(6 * RESCUE_AFTER);
      for (const app of apps) app.send({ type: 'release' });
      expect(tally(await world.untilEnded(ids))).toEqual({ 'completed 1': 30 });
      expect(apps.flatMap((app) => told(app, 'rescued', 'disconnected'))).toEqual([]);
    }),
  );
});

describe.concurrent('A rolling deploy', () => {
  it(
    'leaves the calls of a new handler to the new processes, and those of a removed one where they are',
    inWorld(async (world) => {
      const old = await world.run({ handlers: { kept: {}, removed: {} } });
      const isNew = { handlers: { kept: {}, added: {} } };
      const young = await world.run(isNew);
      const kept = await world.scheduleMany(50, 'kept');
      const added = await world.scheduleMany(50, 'added');
      const removed = await world.scheduleMany(50, 'removed');
      const ended = await world.untilEnded([...kept, ...added, ...removed]);
      const pids = (ids: string[]) =>
        new Set(ended.filter(({ id }) => ids.includes(id)).map(({ pid }) => pid));
      expect(pids(added)).toEqual(new Set([young.pid]));
      expect(pids(removed)).toEqual(new Set([old.pid]));

      expect(await old.terminate()).toEqual({ code: null, signal: 'SIGTERM' });
      const left = await world.scheduleMany(3, 'removed');
      await world.untilEnded(await world.scheduleMany(10, 'kept'));
      const next = await world.run(isNew);
      await next.waitForOutput(
        /Calls are pending that no running instance has a handler for: "removed"\. They stay/,
      );
      expect(await world.count(`from future_call where name = 'removed' and attempt = 0`)).toBe(3);
      // Until there is one again.
      await world.run({ handlers: { removed: {} } });
      expect(tally(await world.untilEnded(left))).toEqual({ 'completed 1': 3 });
    }),
  );

  it(
    'lets a process rescue calls that it has no handler for: they get the further attempts that their own one allows',
    inWorld(async (world) => {
      const victim = await world.run();
      const ids = [
        await world.schedule('call', { hold: true }),
        await world.schedule('again', { hold: true }),
      ];
      await victim.waitForCount('holding', 2);
      const rescuer = await world.run({ handlers: {} });
      await victim.kill();
      await rescuer.waitForOutput(
        /Interrupted 2 calls: "call" \(id 1, attempt 1\), "again" \(id 2, attempt 1, is tried again\)/,
      );
      const heir = await world.run();
      await heir.waitFor('holding');
      heir.send({ type: 'release' });
      const ended = await world.untilEnded(ids);
      expect(ended.map(({ outcome, attempt }) => `${outcome} ${attempt}`)).toEqual([
        'interrupted 1',
        'completed 2',
      ]);
    }),
  );
});
