import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { BACK, lines, LOST, tally, told } from './support/evidence.js';
import { figure, inWorldOfItsOwn } from './support/in-world.js';
import { PATIENT as options } from './support/world.js';

const OUTAGE = 30_000;

const byNumber = (one: string, other: string) => Number(one) - Number(other);

describe.concurrent('A restart of PostgreSQL', () => {
  it.for(['fast', 'immediate'] as const)(
    '(%s) interrupts nothing, though every lock is missing after it: handlers go on, and their ends are recorded',
    (mode) =>
      inWorldOfItsOwn(async (world, server) => {
        const apps = await Promise.all([world.run({ options }), world.run({ options })]);
        const ids = await world.scheduleMany(16, 'call', { hold: true });
        ids.push(...(await world.scheduleMany(4, 'again', { hold: true, fail: 1 })));
        await Promise.all(apps.map((app) => app.waitForCount('holding', 10)));
        await server.restart(mode);
        await Promise.all(apps.map((app) => app.waitForOutput(BACK)));
        for (const app of apps) app.send({ type: 'release' });
        expect(tally(await world.untilEnded(ids))).toEqual({ 'completed 1': 16, 'completed 2': 4 });
        for (const app of apps) {
          expect([lines(app, LOST), lines(app, BACK)]).toEqual([1, 1]);
          expect(told(app, 'rescued', 'aborted')).toEqual([]);
        }
      })(),
  );

  it(
    'in the middle of the flow, as in a crash, six times: every accepted call runs, and none starts twice',
    inWorldOfItsOwn(async (world, server) => {
      const apps = await Promise.all([world.run({ options }), world.run({ options })]);
      const ids: string[] = [];
      for (let round = 0; round < 6; round++) {
        ids.push(
          ...(await world.scheduleMany(200, 'call')),
          ...(await world.scheduleMany(20, 'again', { fail: 1 })),
        );
        // No matter how far they are.
        await sleep(Math.random() * 200);
        await server.restart('immediate');
      }
      const ended = await world.untilEnded(ids, 120_000);
      expect(tally(ended)).toEqual({ 'completed 1': 1_200, 'completed 2': 120 });
      for (const app of apps) expect(told(app, 'rescued')).toEqual([]);
    }),
  );
});

describe.concurrent('An outage of PostgreSQL', () => {
  it(
    'is waited for in silence, with few attempts to reconnect; then the first attempt succeeds and what became due runs',
    inWorldOfItsOwn(async (world, server) => {
      const proxy = await world.proxy();
      // Nothing but its return leads it to what became due.
      const app = await world.run({ proxy, options: { ...options, pollInterval: '1h' } });
      const held = await world.schedule('call', { hold: true });
      await app.waitFor('holding');
      const due = await world.scheduleMany(10, 'call', null, OUTAGE / 2);

      const before = proxy.accepted;
      await server.halt('fast');
      await app.waitForOutput(LOST);
      await sleep(OUTAGE);
      const attempts = proxy.accepted - before;
      // 50 ms, then twice as long each time up to 2 s, each at random from 0: about 35 of them.
      expect(attempts).toBeGreaterThan(5);
      expect(attempts).toBeLessThan(150);
      figure(`attempts to reconnect in ${OUTAGE / 1_000} s`, attempts);

      await server.start();
      const left = proxy.accepted;
      await app.waitForOutput(BACK);
      expect(proxy.accepted - left).toBeLessThanOrEqual(1);
      expect(tally(await world.untilEnded(due))).toEqual({ 'completed 1': 10 });
      app.send({ type: 'release' });
      expect(tally(await world.untilEnded([held]))).toEqual({ 'completed 1': 1 });
      const [first] = await world.database.query<{ after: number }>(
        `select extract(epoch from min(at) - pg_postmaster_start_time())::float8 * 1000 as after
         from started where call_id <> ${held}`,
      );
      figure('ms from the start of PostgreSQL to the first call', first!.after);

      // One line for each change of state, and one for each reason why it did not work.
      expect([lines(app, LOST), lines(app, BACK)]).toEqual([1, 1]);
      expect(lines(app, /\[FutureCall\]/)).toBeLessThan(8);
      expect(told(app, 'unhandled')).toEqual([]);
      expect(told(app, 'connected', 'disconnected')).toMatchObject([
        { type: 'disconnected' },
        { type: 'connected' },
      ]);
      expect(await app.terminate()).toEqual({ code: null, signal: 'SIGTERM' });
    }),
  );
});

describe.concurrent('A claim', () => {
  it(
    'outlives a crash of PostgreSQL though the role says synchronous_commit = off: no call starts twice',
    inWorldOfItsOwn(
      async (world, server) => {
        const ids = await world.scheduleMany(5, 'call', { hold: true }, 2_000);
        const later = await world.scheduleMany(5, 'call', { hold: true }, 6_000);
        await world.database.query('alter role postgres set synchronous_commit = off');
        await world.database.query('checkpoint');
        const app = await world.run({ options });
        await app.waitForCount('holding', 5);
        await server.restart('immediate');
        await app.waitForOutput(BACK);
        await app.waitForCount('holding', 10);
        app.send({ type: 'release' });
        expect(tally(await world.untilEnded([...ids, ...later]))).toEqual({ 'completed 1': 10 });
        // The ledger lost what the app wrote with that setting; what the app told is not lost.
        const starts = told(app, 'started').map(({ id }) => id as string);
        expect(starts.toSorted(byNumber)).toEqual([...ids, ...later]);
      },
      // The WAL is written as late as it can be.
      { settings: { wal_writer_delay: '10s', wal_writer_flush_after: '1GB' } },
    ),
  );
});
