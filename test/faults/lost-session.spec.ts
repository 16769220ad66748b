import { describe, expect, it } from 'vitest';
import { until } from '../support/until.js';
import { BACK, lines, LOST, NEW, tally, told } from './support/evidence.js';
import { inWorld } from './support/in-world.js';
import { PATIENT } from './support/world.js';

const ROUNDS = 20;

describe.concurrent('An instance whose session is ended', () => {
  it(
    'lets its handlers go on, takes the same lock again and records how they end: nothing is interrupted',
    inWorld(async (world) => {
      const [app, bystander] = await Promise.all([
        world.run({ options: PATIENT }),
        world.run({ handlers: {}, options: PATIENT }),
      ]);
      const instance = await world.instanceOf(app);
      const ids = await world.scheduleMany(3, 'call', { hold: true });
      await app.waitForCount('holding', 3);
      await world.terminateSession(instance);
      await app.waitForOutput(BACK);
      app.send({ type: 'release' });
      const ended = await world.untilEnded(ids);
      expect(ended.map(({ outcome, attempt }) => [outcome, attempt])).toEqual(
        ids.map(() => ['completed', 1]),
      );

      expect(await world.instanceOf(app)).toBe(instance);
      expect([lines(app, LOST), lines(app, BACK)]).toEqual([1, 1]);
      expect(told(app, 'aborted')).toEqual([]);
      expect(told(bystander, 'rescued')).toEqual([]);
    }),
  );

  it(
    'records an end that came while it had none, and a retry too',
    inWorld(async (world) => {
      const proxy = await world.proxy();
      const app = await world.run({ proxy });
      const ids = [
        await world.schedule('call', { hold: true }),
        await world.schedule('call', { hold: true, fail: 1 }),
        await world.schedule('again', { hold: true, fail: 1 }),
      ];
      await app.waitForCount('holding', 3);
      proxy.refuses = true;
      proxy.cut();
      await app.waitForOutput(LOST);
      app.send({ type: 'release' });
      await app.waitForCount('ended', 3);
      proxy.refuses = false;
      const ended = await world.untilEnded(ids);
      expect(ended.map(({ outcome, attempt }) => `${outcome} ${attempt}`)).toEqual([
        'completed 1',
        'failed 1',
        'completed 2',
      ]);
    }),
  );

  it(
    'runs every call once although all its backends are ended as soon as they are back, twenty times, while calls flow',
    inWorld(async (world) => {
      const apps = await Promise.all([world.run({ options: PATIENT }), world.run({ options: PATIENT })]);
      const ids: string[] = [];
      for (let round = 1; round <= ROUNDS; round++) {
        ids.push(...(await world.scheduleMany(40, 'call')));
        for (let i = 0; i < 20; i++) ids.push(await world.schedule('call', null, i * 100));
        const [ended] = await world.database.query<{ n: string }>(
          `select count(pg_terminate_backend(pid)) as n from pg_stat_activity
           where datname = current_database() and (application_name = 'fault app' or application_name like 'future-call instance%')`,
        );
        expect(Number(ended!.n)).toBeGreaterThanOrEqual(2);
        for (const app of apps) {
          await until(
            async () => lines(app, LOST) >= round && lines(app, BACK) === lines(app, LOST),
            `it has its session back (${round})`,
          );
        }
      }
      const ended = await world.untilEnded(ids);
      expect(tally(ended)).toEqual({ 'completed 1': ids.length });
      expect(await world.count('from started')).toBe(ids.length);
      for (const app of apps) expect(told(app, 'rescued')).toEqual([]);
    }),
  );
});

describe.concurrent('An instance whose connection swallows everything', () => {
  it(
    'notices, ends its old backend and goes on with the same lock: nothing is interrupted',
    inWorld(async (world) => {
      const proxy = await world.proxy();
      const [app, bystander] = await Promise.all([
        world.run({ proxy }),
        world.run({ handlers: {}, options: PATIENT }),
      ]);
      const instance = await world.instanceOf(app);
      const ids = await world.scheduleMany(3, 'call', { hold: true });
      await app.waitForCount('holding', 3);
      const backend = await world.backendOf(instance);
      proxy.freeze();
      await app.waitForOutput(BACK);
      // Its backend holds the lock and waits for it: only the deadline can tell.
      expect(app.output).toMatch(/lost its session, and reconnects: no answer to the look within 5000 ms/);
      await until(
        async () => (await world.count(`from pg_stat_activity where pid = ${backend}`)) === 0,
        'its old backend has ended',
      );
      app.send({ type: 'release' });
      const ended = await world.untilEnded(ids);
      expect(ended.map(({ outcome }) => outcome)).toEqual(ids.map(() => 'completed'));
      expect(await world.instanceOf(app)).toBe(instance);
      expect(told(bystander, 'rescued')).toEqual([]);
      // What was kept back finds a backend that has ended.
      proxy.thaw();
      expect(await world.untilEnded([await world.schedule('call')])).toMatchObject([
        { outcome: 'completed' },
      ]);
    }),
  );

  it(
    'and that is gone too: PostgreSQL ends the session, which frees the lock, and its calls are interrupted',
    inWorld(async (world) => {
      const proxy = await world.proxy();
      const [app, bystander] = await Promise.all([world.run({ proxy }), world.run({ handlers: {} })]);
      const instance = await world.instanceOf(app);
      const id = await world.schedule('call', { hold: true });
      await app.waitFor('holding');
      // Neither side hears that the other one has ended: what keepalives do not see, behind a proxy for one.
      proxy.freeze({ alsoNew: true });
      await app.kill();
      expect(await world.untilEnded([id], 120_000)).toMatchObject([{ outcome: 'interrupted', pid: app.pid }]);
      await bystander.waitFor('rescued');
      expect(await world.backendOf(instance)).toBeUndefined();
    }),
  );

  it(
    'long enough to be taken for dead: when the bytes come, its ends are fenced, and correct only an outcome that was a guess',
    inWorld(async (world) => {
      const proxy = await world.proxy();
      const [zombie, heir] = await Promise.all([
        world.run({ proxy, handlers: { call: {}, again: { attempts: 5 } } }),
        world.run({ handlers: {} }),
      ]);
      const call = await world.schedule('call', { hold: true });
      const again = await world.schedule('again', { hold: true });
      await zombie.waitForCount('holding', 2);
      proxy.freeze({ alsoNew: true });
      // The ends of both are on their way now.
      zombie.send({ type: 'release' });
      await zombie.waitForCount('ended', 2);
      await heir.waitFor('rescued', { timeout: 150_000 });
      expect(await world.untilEnded([call])).toMatchObject([{ outcome: 'interrupted' }]);
      // Only now somebody who can run it.
      const runner = await world.run();
      await runner.waitFor('holding');
      expect(told(runner, 'started')).toMatchObject([{ id: again, attempt: 2 }]);

      proxy.thaw();
      await zombie.waitForOutput(NEW);
      await until(
        async () => (await world.ended([call]))[0]!.outcome === 'completed',
        'the guess is corrected',
      );
      // Its next call proves that everything it had to say before has been said.
      expect(await world.count(`from future_call_running where id = ${again} and attempt = 2`)).toBe(1);
      runner.send({ type: 'release' });
      expect(await world.untilEnded([again])).toMatchObject([
        { outcome: 'completed', attempt: 2, pid: runner.pid },
      ]);
    }),
  );

  it(
    'closes all the same, and leaves what it runs to the others',
    inWorld(async (world) => {
      const proxy = await world.proxy();
      const [app, bystander] = await Promise.all([
        world.run({ proxy, options: { shutdownTimeout: 0 } }),
        world.run({ handlers: {} }),
      ]);
      const id = await world.schedule('call', { hold: true });
      await app.waitFor('holding');
      proxy.freeze({ alsoNew: true });
      app.send({ type: 'close' });
      expect(await app.exited).toEqual({ code: 0, signal: null });
      proxy.cut();
      expect(await world.untilEnded([id])).toMatchObject([{ outcome: 'interrupted' }]);
      await bystander.waitFor('rescued');
    }),
  );
});

describe.concurrent('An instance that reconnects', () => {
  it.for([
    ['it is asked whether a pooler is in between', /^select pg_backend_pid/],
    ['it takes its lock', /pg_try_advisory_lock\(/],
    ['it listens', /^listen /],
  ] as const)('tries again when its connection swallows everything while %s', ([, swallowed]) =>
    inWorld(async (world) => {
      const proxy = await world.proxy();
      const app = await world.run({ proxy });
      const reached = new Promise<void>((resolve) => {
        proxy.judge = ({ statement }) => {
          if (!swallowed.test(statement)) return 'pass';
          proxy.judge = () => 'pass';
          resolve();
          return 'freeze';
        };
      });
      proxy.cut();
      await reached;
      const id = await world.schedule('call');
      expect(await world.untilEnded([id])).toMatchObject([{ outcome: 'completed', attempt: 1 }]);
      expect(await app.terminate()).toEqual({ code: null, signal: 'SIGTERM' });
    })(),
  );
});

describe.concurrent('Notifications that are lost without anybody noticing', () => {
  it(
    'keep no call from running: the poll finds it',
    inWorld(async (world) => {
      const proxy = await world.proxy();
      const app = await world.run({ proxy });
      proxy.dropsNotifications = true;
      const ids = [];
      for (let i = 0; i < 5; i++) {
        ids.push(await world.schedule('call', null, i * 300));
        await world.untilEnded(ids);
      }
      expect(told(app, 'disconnected')).toEqual([]);
      expect(lines(app, LOST)).toBe(0);
    }),
  );
});
