import { describe, expect, it } from 'vitest';
import type { AppProcess } from '../support/processes.js';
import type { HeldAnswer, PostgresProxy } from '../support/proxy.js';
import { until } from '../support/until.js';
import { answersTo, LOOK, RESCUE } from './support/evidence.js';
import { figure, inWorld } from './support/in-world.js';
import { RESCUE_AFTER, type World } from './support/world.js';

const KILLS = 20;
const PROCESSES = 3;

/** Every process has a handler of its own beside the common one, so that a test can say who gets a call. */
interface Victim {
  readonly handler: string;
  readonly proxy: PostgresProxy;
  readonly app: AppProcess;
  readonly instance: number;
}

async function startVictim(world: World, number: number): Promise<Victim> {
  const handler = `only ${number}`;
  const proxy = await world.proxy();
  const app = await world.run({ proxy, handlers: { call: {}, [handler]: {} } });
  return { handler, proxy, app, instance: await world.instanceOf(app) };
}

interface Point {
  readonly name: string;
  /** What becomes of the call, and whether its handler was invoked in the process that is killed. */
  readonly outcome: 'interrupted' | 'completed';
  readonly starts: number;
  /** Schedules a call and waits until the victim is at this point with it. Answers with the call, and what to undo. */
  reach(world: World, victim: Victim): Promise<{ id: string; undo?: () => unknown }>;
}

async function reachBarrier(world: World, { instance, handler }: Victim, at: 'claim' | 'end') {
  const backend = await world.backendOf(instance);
  const barrier = await world.barrier(at, instance);
  const id = await world.schedule(handler);
  await barrier.reached();
  const undo = async () => {
    // The server looks after its client while a statement runs, and rolls back.
    await until(async () => (await world.backendOf(instance)) !== backend, 'the server has noticed');
    await barrier.open();
  };
  return { id, undo };
}

async function loseAnswer(
  world: World,
  { handler, proxy }: Victim,
  isMeant: (answer: HeldAnswer) => boolean,
) {
  const lost = new Promise<void>((resolve) => {
    proxy.judge = (answer) => {
      if (!isMeant(answer)) return 'pass';
      resolve();
      return 'freeze';
    };
  });
  const id = await world.schedule(handler);
  await lost;
  // The process is killed now, and the server hears of it.
  return { id, undo: () => proxy.thaw() };
}

const POINTS: Point[] = [
  {
    // Rolled back: the process that replaces this one runs it.
    name: 'before its claim commits',
    outcome: 'completed',
    starts: 1,
    reach: (world, victim) => reachBarrier(world, victim, 'claim'),
  },
  {
    name: 'when its claim has been committed',
    outcome: 'interrupted',
    starts: 0,
    reach: (world, victim) =>
      loseAnswer(world, victim, ({ statement, rows }) => statement === 'future_call_claim' && rows > 1),
  },
  {
    name: 'while its handler runs',
    outcome: 'interrupted',
    starts: 1,
    async reach(world, { handler, app }) {
      const id = await world.schedule(handler, { hold: true });
      await app.waitFor('holding');
      return { id };
    },
  },
  {
    name: 'when its handler has ended, before that commits',
    outcome: 'interrupted',
    starts: 1,
    reach: (world, victim) => reachBarrier(world, victim, 'end'),
  },
  {
    name: 'when its end has been committed',
    outcome: 'completed',
    starts: 1,
    reach: (world, victim) =>
      loseAnswer(world, victim, ({ statement }) => statement === 'future_call_complete_keep'),
  },
];

describe('A process that is killed', () => {
  it(
    `loses nothing and lets nothing start twice, wherever it was: ${KILLS} kills of one of ${PROCESSES}`,
    inWorld(async (world) => {
      const victims = Array.from({ length: PROCESSES }, (_, i) => startVictim(world, i));
      // The others are stopped at exact points too, and then look after nobody.
      const bystander = world.run({ handlers: {} });
      await Promise.all([...victims, bystander]);
      const killed: { id: string; point: Point; pid: number; at: number }[] = [];
      const others: string[] = [];

      for (let round = 0; round < KILLS; round++) {
        const which = round % PROCESSES;
        const victim = await victims[which]!;
        const point = POINTS[round % POINTS.length]!;
        // Nothing else is under way in it, and what the process before it has left has been done.
        const busy = `from future_call_running where instance_id = ${victim.instance}`;
        await until(
          async () => (await world.count('from future_call')) + (await world.count(busy)) === 0,
          'the process has nothing to do',
          120_000,
        );
        const { id, undo } = await point.reach(world, victim);
        others.push(...(await world.scheduleMany(10, 'call', null, round * 10)));
        const at = await world.now();
        await victim.app.kill();
        victims[which] = startVictim(world, which);
        // Looked at in its turn, unless the test fails before.
        victims[which].catch(() => {});
        await undo?.();
        killed.push({ id, point, pid: victim.app.pid, at });
      }

      await Promise.all(victims);
      const targets = await world.untilEnded(killed.map(({ id }) => id));
      for (const [i, { point, id }] of killed.entries()) {
        const starts = await world.count(`from started where call_id = ${id}`);
        expect({ ...targets[i], starts }, `killed ${point.name}`).toMatchObject({
          id,
          outcome: point.outcome,
          starts: point.starts,
          attempt: 1,
        });
      }
      // Whatever was interrupted was in the hands of a process that was killed: of the others, too.
      const ended = [...targets, ...(await world.untilEnded(others))];
      const pids = new Set(killed.map(({ pid }) => pid));
      const byTheDead = ended.filter(({ outcome, pid }) => outcome === 'interrupted' && pids.has(pid!));
      const completed = ended.filter(({ outcome }) => outcome === 'completed');
      expect(byTheDead.length + completed.length).toBe(ended.length);

      const waits = killed.flatMap(({ at, point }, i) =>
        point.outcome === 'interrupted' ? targets[i]!.finishedAt - at : [],
      );
      expect(Math.min(...waits)).toBeGreaterThanOrEqual(RESCUE_AFTER);
      expect(Math.max(...waits)).toBeLessThan(RESCUE_AFTER + 3_000);
      figure(`interrupted so many ms after the kill (rescueAfter ${RESCUE_AFTER})`, Math.max(...waits));
    }),
  );

  it(
    'by a call again and again does not take the calls beside it down with it',
    inWorld(async (world) => {
      const start = () => world.run({ handlers: { again: { attempts: 3 } } });
      let app = await start();
      // Claimed together, and the first one leaves the others no time to start.
      const ids = await world.scheduleAll('again', [{ die: true }, ...Array.from({ length: 8 }, () => null)]);
      let deaths = 0;
      const ended = world.untilEnded(ids);
      const isOver = ended.then(() => true);
      while (!(await Promise.race([isOver, app.exited.then(() => false)]))) {
        deaths++;
        app = await start();
      }
      expect((await ended).map(({ outcome }) => outcome)).toEqual([
        'interrupted',
        ...Array.from({ length: 8 }, () => 'completed'),
      ]);
      expect(deaths).toBe(3);
    }),
  );

  it(
    'is found dead by the third look that misses its lock',
    inWorld(async (world) => {
      const proxy = await world.proxy();
      const [victim, rescuer] = await Promise.all([
        world.run(),
        // Waits for the answer to a look for twice as long.
        world.run({ proxy, handlers: {}, options: { rescueAfter: 4_000 } }),
      ]);
      const instance = await world.instanceOf(victim);
      const id = await world.schedule('call', { hold: true });
      await victim.waitFor('holding');
      // The answer to this look was given while the victim lived.
      const held = new Promise<void>((resolve) => {
        proxy.judge = ({ statement }) => {
          if (!LOOK.test(statement)) return 'pass';
          proxy.judge = () => 'pass';
          resolve();
          return 'freeze';
        };
      });
      await held;
      const looks = answersTo(proxy, LOOK);
      await victim.kill();
      await until(async () => (await world.backendOf(instance)) === undefined, 'its lock is gone');
      proxy.thaw();
      expect(await world.untilEnded([id])).toMatchObject([{ outcome: 'interrupted', pid: victim.pid }]);
      await rescuer.waitFor('rescued');
      const before = proxy.answered.slice(
        0,
        proxy.answered.findIndex((text) => RESCUE.test(text)),
      );
      expect(answersTo({ answered: before }, LOOK) - looks).toBe(1 + 3);
    }),
  );
});
