import { describe, expect, it } from 'vitest';
import {
  FutureCall,
  type FutureCallEvent,
  type FutureCallHandler,
  type FutureCallModuleOptions,
} from '../../lib/index.js';
import { boot } from '../support/app.js';
import { engineOf } from '../support/engine.js';
import { until } from '../support/until.js';
import { LOOK, untilAnswered } from './support/evidence.js';
import { figure, inWorld } from './support/in-world.js';
import { RESCUE_AFTER, type World } from './support/world.js';

/** What `rescueAfter` gives an answer at the least, in milliseconds. */
const DEADLINE = 5_000;

/** An app whose session goes through a proxy, and what it tells. */
async function bootBehindProxy(world: World, options: FutureCallModuleOptions = {}, providers: never[] = []) {
  const proxy = await world.proxy();
  const booted = await boot(world.database, {
    options: { sessionUrl: proxy.url(world.database.url), ...options },
    providers,
  });
  world.onEnd(booted.close);
  const events: FutureCallEvent[] = [];
  booted.service.events.subscribe((event) => events.push(event));
  return { ...booted, proxy, events, session: engineOf(booted.app).session };
}

const ofType = <T extends FutureCallEvent['type']>(events: readonly FutureCallEvent[], type: T) =>
  events.filter((event) => event.type === type) as Extract<FutureCallEvent, { type: T }>[];

describe.concurrent('A line that freezes', () => {
  it(
    'while its backend is terminated is replaced before anybody can rescue: a handler with attempts does not run twice at one time',
    inWorld(async (world) => {
      let starts = 0;
      let release!: () => void;
      const released = new Promise<void>((resolve) => (release = resolve));

      @FutureCall('held', { attempts: 5, backoff: { type: 'fixed', delay: 0 } })
      class Held implements FutureCallHandler {
        async invoke() {
          starts++;
          await released;
        }
      }

      // With the options that an app has that sets none.
      const [victim, rescuer] = [
        await bootBehindProxy(world, { retention: { completed: true } }, [Held as never]),
        await bootBehindProxy(world),
      ];
      const { id } = await victim.service.callWithDelay('held', null, 0);
      await world.accept([id]);
      await until(async () => starts === 1, 'it runs');
      const { session, proxy, events } = victim;
      const [instance, backend] = [session.instance.id, session.backendPid];

      // The worst moment: the next look is as far away as it can be, and others see at once that the lock is gone.
      await untilAnswered(proxy, LOOK, 1);
      proxy.freeze();
      await world.database.query('select pg_terminate_backend($1)', [backend]);
      const lostAt = performance.now();
      await until(async () => ofType(events, 'connected').length === 1, 'it is back');
      figure('ms from the end of the backend to the new session', performance.now() - lostAt);

      expect(ofType(events, 'connected')).toEqual([{ type: 'connected', instanceId: instance }]);
      const [lost] = ofType(events, 'disconnected');
      expect(lost!.error).toMatchObject({
        name: 'FutureCallSessionError',
        message: expect.stringMatching(`^its backend ${backend} is gone, and our lock with it`),
        cause: expect.any(Error),
      });
      release();
      expect(await world.untilEnded([id])).toMatchObject([{ outcome: 'completed', attempt: 1 }]);
      expect(starts).toBe(1);
      expect(ofType(rescuer.events, 'rescued')).toEqual([]);
    }),
  );
});

describe.concurrent('A server that is slow', () => {
  it(
    'with one statement for longer than an answer may take costs nobody a session, and few connections',
    inWorld(async (world) => {
      const { session, events, proxy } = await bootBehindProxy(world, { rescueAfter: RESCUE_AFTER });
      const before = proxy.accepted;
      const backend = session.backendPid;
      // What comes after it waits: the look does.
      const slow = session.query({ text: `select pg_sleep(${DEADLINE / 1_000 + 2})` });
      await slow;
      await untilAnswered(proxy, LOOK, 1);
      expect(proxy.accepted - before).toBeGreaterThanOrEqual(1);
      expect(proxy.accepted - before).toBeLessThanOrEqual(2);
      expect(session.backendPid).toBe(backend);
      expect(events).toEqual([]);
    }),
  );

  it(
    'whose every answer takes 4 s costs nobody a session',
    inWorld(async (world) => {
      const { session, events, proxy } = await bootBehindProxy(world);
      const backend = session.backendPid;
      proxy.delay = 4_000;
      await untilAnswered(proxy, LOOK, 2);
      expect(session.backendPid).toBe(backend);
      expect(events).toEqual([]);
      // Nobody waits for what it would still say.
      proxy.delay = 0;
      proxy.cut();
    }),
  );
});
