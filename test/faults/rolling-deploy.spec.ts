import { describe, expect, it } from 'vitest';
import { inWorld } from './support/in-world.js';
import { until } from '../support/until.js';

const PENDING_WITHOUT_HANDLER =
  /Calls are pending that no running instance has a handler for: (.*)\. They stay until one has, or until they are cancelled\./;

describe('While the old and the new release of an app run side by side', () => {
  it.concurrent(
    'each process runs only calls that it has a handler for, and what both have is run by either',
    inWorld(async (world) => {
      const [before, after] = await Promise.all([
        world.run({ handlers: { call: {}, removed: {} } }),
        world.run({ handlers: { call: {}, added: {} } }),
      ]);
      const [common, removed, added] = await Promise.all([
        world.scheduleMany(100, 'call'),
        world.scheduleMany(50, 'removed'),
        world.scheduleMany(50, 'added'),
      ]);
      const pids = async (ids: string[]) => new Set((await world.untilEnded(ids)).map(({ pid }) => pid));
      expect(await pids(removed)).toEqual(new Set([before.pid]));
      expect(await pids(added)).toEqual(new Set([after.pid]));
      for (const pid of await pids(common)) expect([before.pid, after.pid]).toContain(pid);
      expect(await world.count('from started')).toBe(200);
      // Somebody has a handler for everything.
      for (const { output } of [before, after]) expect(output).not.toMatch(PENDING_WITHOUT_HANDLER);
    }),
  );

  it.concurrent(
    'calls of a removed handler stay as they are and delay no others, a warning names them, and they run once when it is back',
    inWorld(async (world) => {
      const before = await world.run({ handlers: { call: {}, removed: {}, 'also removed': {} } });
      expect(await before.terminate()).toEqual({ code: null, signal: 'SIGTERM' });
      const cancelled = await world.schedule('removed', null, 0, { identifier: 'cancelled' });
      const removed = [
        ...(await world.scheduleMany(500, 'removed')),
        await world.schedule('also removed'),
        await world.schedule('also removed', null, 3_600_000),
      ];

      const after = await world.run({ handlers: { call: {} } });
      const [, names] = await after.waitForOutput(PENDING_WITHOUT_HANDLER);
      expect(names).toBe('"also removed", "removed"');
      // Later than all of those, and more than one process claims at once.
      expect((await world.untilEnded(await world.scheduleMany(100, 'call'))).length).toBe(100);
      expect(await world.service.cancel('cancelled')).toBe(1);
      const untouched = await world.database.query(
        `select from future_call where id = any ($1::bigint[]) and attempt = 0 and errors is null`,
        [removed],
      );
      expect(untouched.length).toBe(removed.length);

      const back = await world.run({ handlers: { removed: {}, 'also removed': {} } });
      const ended = await world.untilEnded(removed.slice(0, -1));
      expect(new Set(ended.map(({ outcome, attempt, pid }) => `${outcome} ${attempt} ${pid}`))).toEqual(
        new Set([`completed 1 ${back.pid}`]),
      );
      expect(back.output).not.toMatch(PENDING_WITHOUT_HANDLER);
      expect(await world.count(`from started where call_id = ${cancelled}`)).toBe(0);
    }),
  );

  it.concurrent(
    'how often a call may be started is what the process said that started it, also when another release rescues it',
    inWorld(async (world) => {
      const old = await world.run({ handlers: { call: {}, again: { attempts: 5 } } });
      const once = await world.schedule('call', { hold: true });
      const again = await world.schedule('again', { hold: true });
      await old.waitForCount('holding', 2);
      // It would repeat the one, and has not even a handler for the other.
      const next = await world.run({ handlers: { call: { attempts: 5 } } });
      await old.kill();
      await next.waitFor('rescued');
      expect((await world.untilEnded([once])).map(({ outcome, attempt }) => `${outcome} ${attempt}`)).toEqual(
        ['interrupted 1'],
      );
      expect(await world.count(`from future_call where id = ${again} and attempt = 1`)).toBe(1);

      const later = await world.run({ handlers: { again: { attempts: 5 } } });
      const [ended] = await until(async () => {
        const found = await world.ended([again]);
        if (found.length === 0) later.send({ type: 'release' });
        return found.length === 1 && found;
      }, 'the call has ended');
      expect(ended).toMatchObject({ outcome: 'completed', attempt: 2, pid: later.pid });
      expect(next.messages.filter(({ type, id }) => type === 'started' && id === once)).toEqual([]);
    }),
  );
});
