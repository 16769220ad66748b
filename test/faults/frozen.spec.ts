import { execFileSync } from 'node:child_process';
import * as fs from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { boot } from '../support/app.js';
import { engineOf } from '../support/engine.js';
import type { AppMessage, AppProcess } from '../support/processes.js';
import { until } from '../support/until.js';
import { lines, LOOK, LOST, NEW, tally, told, untilAnswered } from './support/evidence.js';
import { inWorld } from './support/in-world.js';
import { PATIENT, RESCUE_AFTER, type World } from './support/world.js';

/** Quick calls: after so many an app knows that its handler is quick, and claims ahead of its one slot. */
const QUICK = Array.from({ length: 300 }, () => null);

interface Freezer {
  readonly freeze: () => Promise<void>;
  readonly thaw: () => Promise<void>;
}

/** Who reads it waits until somebody writes. */
async function makeFifo(world: World): Promise<string> {
  const folder = await fs.mkdtemp(path.join(os.tmpdir(), 'fc-fifo-'));
  world.onEnd(() => fs.rm(folder, { recursive: true }));
  const fifo = path.join(folder, 'fifo');
  execFileSync('mkfifo', [fifo]);
  return fifo;
}

const FREEZERS: { name: string; prepare: (world: World, app: AppProcess) => Promise<Freezer> }[] = [
  {
    name: 'stopped (SIGSTOP)',
    prepare: async (_world, app) => ({
      freeze: async () => void app.signal('SIGSTOP'),
      thaw: async () => void app.signal('SIGCONT'),
    }),
  },
  {
    name: 'blocked by one of its own handlers',
    prepare: async (world, app) => {
      const fifo = await makeFifo(world);
      return {
        freeze: async () => {
          await world.schedule('blocker', { block: fifo });
          await app.waitFor('blocking');
        },
        // Opening it waits for whoever reads, and reading waits for this.
        thaw: () => fs.writeFile(fifo, ''),
      };
    },
  },
];

describe.concurrent.each(FREEZERS)('A process that is $name', ({ prepare }) => {
  it(
    'for a while, however short rescueAfter is, is not taken for dead: PostgreSQL holds its lock',
    inWorld(async (world) => {
      const proxy = await world.proxy();
      const [app, bystander] = await Promise.all([
        world.run({ handlers: { call: {}, blocker: {} }, options: PATIENT }),
        world.run({ proxy, handlers: {} }),
      ]);
      const { freeze, thaw } = await prepare(world, app);
      const ids = await world.scheduleMany(3, 'call', { hold: true });
      await app.waitForCount('holding', 3);
      await freeze();
      // Three would do if it held no lock.
      await untilAnswered(proxy, LOOK, 12);
      await thaw();
      app.send({ type: 'release' });
      expect(tally(await world.untilEnded(ids))).toEqual({ 'completed 1': 3 });
      expect(told(bystander, 'rescued')).toEqual([]);
      expect(lines(app, LOST)).toBe(0);
    }),
  );

  it(
    'until PostgreSQL ends its session is taken for dead. When it goes on, it starts nothing of what was given away, its signals are aborted, and its ends do not end what others have started',
    inWorld(async (world) => {
      const again = { attempts: 5, concurrency: 1 };
      const [zombie, bystander] = await Promise.all([
        world.run({ handlers: { call: {}, again, blocker: {} } }),
        world.run({ handlers: {} }),
      ]);
      const { freeze, thaw } = await prepare(world, zombie);
      const call = await world.schedule('call', { hold: true });
      const ids = await world.scheduleAll('again', [
        ...QUICK,
        ...Array.from({ length: 100 }, () => ({ hold: true })),
      ]);
      const [quick, slow] = [ids.slice(0, QUICK.length), ids.slice(QUICK.length)];
      await zombie.waitForCount('holding', 2);
      await world.untilEnded(quick);
      const [running] = slow;

      await freeze();
      await bystander.waitFor('rescued', { timeout: 150_000 });
      expect(await world.ended([call])).toMatchObject([{ outcome: 'interrupted', pid: zombie.pid }]);
      // Only now somebody who can run the others: what was claimed again, as its second attempt, the rest for the first time.
      const heir = await world.run({ handlers: { again: { attempts: 5 } }, options: { concurrency: 1_000 } });
      await heir.waitForCount('holding', slow.length);

      await thaw();
      await zombie.waitForOutput(NEW);
      await zombie.waitForCount('aborted', 2);
      expect(told(zombie, 'aborted').map(({ id }) => id)).toEqual([call, running]);
      zombie.send({ type: 'release' });
      await until(
        async () => (await world.ended([call]))[0]!.outcome === 'completed',
        'the guess is corrected',
      );
      expect(
        await world.database.query(`select attempt from future_call_running where id = ${running}`),
      ).toEqual([{ attempt: 2 }]);
      heir.send({ type: 'release' });
      await world.untilEnded(slow);
      expect(await world.ended([running!])).toMatchObject([
        { outcome: 'completed', attempt: 2, pid: heir.pid },
      ]);
      const startedHere = told(zombie, 'started').filter(({ id }) => slow.includes(id as string));
      expect(startedHere.map(({ id }) => id)).toEqual([running]);
    }),
  );
});

describe.concurrent('A process that was away', () => {
  it(
    'because a handler blocked it until others had taken over, starts nothing when that handler ends and its slot is free',
    inWorld(async (world) => {
      const [zombie, bystander] = await Promise.all([
        world.run({ handlers: { call: { concurrency: 1 } } }),
        world.run({ handlers: {} }),
      ]);
      const instance = await world.instanceOf(zombie);
      const fifo = await makeFifo(world);
      const ids = await world.scheduleAll('call', [...QUICK, { block: fifo }, ...QUICK]);
      const { id: blocking } = await zombie.waitFor<AppMessage & { id: string }>('blocking');
      expect(blocking).toBe(ids[QUICK.length]);
      const started = told(zombie, 'started').map(({ id }) => id);
      const claimed = await world.database.query<{ id: string }>(
        `select id from future_call_running where instance_id = ${instance} order by id`,
      );
      const queued = claimed.map(({ id }) => id).filter((id) => !started.includes(id));
      expect(queued.length).toBeGreaterThan(0);

      await bystander.waitFor('rescued', { timeout: 150_000 });
      // The next turn of its event loop frees the slot, before the process can hear that its session has ended.
      await fs.writeFile(fifo, '');
      await zombie.waitForOutput(NEW);
      // What it had not claimed runs now that it is back.
      await world.untilEnded(ids);
      await until(
        async () => (await world.ended([blocking]))[0]!.outcome === 'completed',
        'the guess is corrected',
      );
      expect(tally(await world.ended(queued))).toEqual({ 'interrupted 1': queued.length });
      expect(told(zombie, 'started').filter(({ id }) => queued.includes(id as string))).toEqual([]);
    }),
  );

  it(
    'takes an answer that it reads late for as old as its question: that nobody has taken over is not proved by it',
    inWorld(async (world) => {
      const proxy = await world.proxy();
      const { app, close } = await boot(world.database, {
        options: { sessionUrl: proxy.url(world.database.url), rescueAfter: RESCUE_AFTER },
      });
      world.onEnd(close);
      const session = engineOf(app).session;
      const held = new Promise<void>((resolve) => {
        proxy.judge = ({ statement }) => {
          if (statement !== 'select 4711') return 'pass';
          resolve();
          return 'freeze';
        };
      });
      const answer = session.query({ text: 'select 4711' });
      await held;
      const asked = performance.now();
      await until(async () => performance.now() - asked > RESCUE_AFTER, 'the question is old');
      expect(session.isTrusted).toBe(false);
      proxy.thaw();
      await answer;
      expect(session.isOpen).toBe(true);
      expect(session.isTrusted).toBe(false);
      await until(async () => session.isTrusted, 'it is asked again');
    }),
  );
});
