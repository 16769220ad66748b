import { describe, expect, it } from 'vitest';
import { inWorld } from './support/in-world.js';
import type { AppProcess } from '../support/processes.js';

/**
 * In these processes `Date` is an hour off, from before anything else is loaded (fault-surroundings.ts): all that
 * JavaScript can see of the machine's clock. The monotonic clock and the timers go as they do anyway.
 */
const HOUR = 3_600_000;
const PROCESSES = [
  ['an hour ahead', HOUR],
  ['an hour behind', -HOUR],
] as const;

describe.each(PROCESSES)('A process whose clock is %s', (_, offset) => {
  // Polling finds everything: without it only a timer and notifications do.
  const APP = { env: { CLOCK_OFFSET: String(offset) }, options: { pollInterval: '10m' } } as const;

  async function schedule(app: AppProcess, fields: object, count: number): Promise<string[]> {
    app.send({ type: 'schedule', handler: 'call', ...fields });
    const told = await app.waitForCount('scheduled', count);
    return told.map(({ id }) => String(id));
  }

  it.concurrent(
    'starts no call early, and none an hour late',
    inWorld(async (world) => {
      await world.run(APP);
      const ids = [
        ...(await world.scheduleMany(20, 'call')),
        ...(await world.scheduleMany(20, 'call', null, 500)),
        ...(await world.scheduleMany(20, 'call', null, 1_500)),
      ];
      const far = await world.schedule('call', null, HOUR - 60_000);
      await world.untilEnded(ids);
      const early = await world.database.query(
        'select * from future_call_outcome where started_at < due_at or finished_at < started_at',
      );
      expect(early).toEqual([]);
      expect(await world.count(`from future_call where id = ${far}`)).toBe(1);
      expect(await world.count('from started')).toBe(60);
    }),
  );

  it.concurrent(
    'schedules for when the database comes to that time, and does not start its own calls early',
    inWorld(async (world) => {
      const app = await world.run(APP);
      const before = await world.now();
      const at = Math.round(before) + 2_000;
      await schedule(app, { delay: 1_500 }, 1);
      await schedule(app, { at: new Date(at).toISOString() }, 2);
      const [delayed, timed, past] = await schedule(app, { at: new Date(at - 60_000).toISOString() }, 3);
      const after = await world.now();
      await world.accept([delayed!, timed!, past!]);

      await world.untilEnded([delayed!, timed!, past!]);
      const calls = await world.database.query<{ id: string; due: number; early: boolean }>(
        `select call_id as id, extract(epoch from due_at)::float8 * 1000 as due, started_at < due_at as early
         from future_call_outcome`,
      );
      const due = (id?: string) => calls.find((call) => call.id === id)!.due;
      expect(due(delayed)).toBeGreaterThanOrEqual(before + 1_500);
      expect(due(delayed)).toBeLessThanOrEqual(after + 1_501);
      expect(due(timed)).toBe(at);
      expect(due(past)).toBe(at - 60_000);
      expect(calls.filter(({ early }) => early)).toEqual([]);
    }),
  );

  it.concurrent(
    'waits between attempts, records times and rescues by the database and by no clock of its own',
    inWorld(async (world) => {
      const app = await world.run(APP);
      const victim = await world.run({ handlers: { hers: {} } });
      const before = await world.now();
      const held = await world.schedule('hers', { hold: true });
      await victim.waitFor('holding');
      const id = await world.schedule('again', { fail: 1 });
      await world.untilEnded([id]);
      await victim.kill();
      await world.untilEnded([held]);
      const after = await world.now();

      const rows = await world.database.query<{ times: number[]; outcome: string }>(
        `select outcome, array(
           select extract(epoch from t)::float8 * 1000
           from unnest(array[created_at, due_at, started_at, finished_at, (errors -> 0 ->> 'at')::timestamptz]) as t
         ) as times from future_call_outcome order by call_id`,
      );
      expect(rows.map(({ outcome }) => outcome)).toEqual(['interrupted', 'completed']);
      for (const time of rows.flatMap(({ times }) => times)) {
        // Due times are in whole milliseconds.
        expect(time).toBeGreaterThanOrEqual(before - 1);
        expect(time).toBeLessThanOrEqual(after + 1);
      }
      await app.waitFor('rescued');
    }),
  );
});

describe('Processes whose clocks are two hours apart', () => {
  it.concurrent(
    'share calls, each started once and none early, and take nobody for dead',
    inWorld(async (world) => {
      const apps = await Promise.all(
        [HOUR, -HOUR].map((offset) => world.run({ env: { CLOCK_OFFSET: String(offset) } })),
      );
      // By the end each has looked at the other one several times.
      const ids = [
        ...(await world.scheduleMany(300, 'call')),
        ...(await world.scheduleMany(300, 'call', null, 2_000)),
      ];
      await world.untilEnded(ids);
      expect(await world.count('from future_call_outcome where started_at < due_at')).toBe(0);
      expect(await world.count('from started')).toBe(600);
      for (const { messages } of apps) {
        expect(messages.filter(({ type }) => type === 'rescued' || type === 'disconnected')).toEqual([]);
      }
    }),
  );
});
