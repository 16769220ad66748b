import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { DataSource } from 'typeorm';
import { describe, expect, it } from 'vitest';
import {
  FutureCall,
  FutureCallService,
  type FutureCallContext,
  type FutureCallHandler,
} from '../../lib/index.js';
import { boot } from '../support/app.js';
import { until } from '../support/until.js';
import { inWorld } from './support/in-world.js';
import { RESCUE_AFTER, type World } from './support/world.js';

/** What the handlers that wait for the pool wait for. */
const KEY = 4_711;

/** Starts, as `id attempt`. */
let started: string[] = [];

/** Needs a connection of the pool, and has to wait for it. */
@FutureCall('query', { concurrency: 5 })
class QueryHandler implements FutureCallHandler {
  constructor(
    private readonly dataSource: DataSource,
    private readonly futureCalls: FutureCallService,
  ) {}

  async invoke(follow: unknown, { id, attempt }: FutureCallContext) {
    started.push(`${id} ${attempt}`);
    await this.dataSource.query(`select pg_advisory_lock_shared(${KEY}), pg_advisory_unlock_shared(${KEY})`);
    if (follow !== null) await this.futureCalls.callWithDelay('quick', null, 0);
  }
}

/** Needs no connection. */
@FutureCall('quick')
class Quick implements FutureCallHandler {
  invoke(_data: unknown, { id, attempt }: FutureCallContext) {
    started.push(`${id} ${attempt}`);
  }
}

@FutureCall('second', { attempts: 2, backoff: { type: 'fixed', delay: 20 } })
class Second implements FutureCallHandler {
  invoke(_data: unknown, { id, attempt }: FutureCallContext) {
    started.push(`${id} ${attempt}`);
    if (attempt === 1) throw new Error('fails on purpose');
  }
}

async function bootWithPoolOfOne(world: World) {
  started = [];
  const app = await boot(world.database, {
    providers: [QueryHandler, Quick, Second],
    typeorm: { poolSize: 1, applicationName: 'pool of one' },
    options: { rescueAfter: RESCUE_AFTER, pollInterval: 1_000, retention: { completed: true } },
  });
  world.onEnd(app.close);
  const { master: pool } = app.dataSource.driver as unknown as { master: pg.Pool };
  return { ...app, pool };
}

describe('An app whose pool has one connection', () => {
  it(
    'claims, completes, retries and rescues while its handlers hold the connection and more of them wait for it',
    inWorld(async (world) => {
      const blocker = await world.connect();
      await blocker.query(`select pg_advisory_lock(${KEY})`);
      const { service, pool } = await bootWithPoolOfOne(world);
      // Before the app closes: its handlers wait.
      world.onEnd(() => blocker.end());
      const disconnections: unknown[] = [];
      const rescues: unknown[] = [];
      service.events.subscribe((event) => {
        if (event.type === 'disconnected') disconnections.push(event);
        if (event.type === 'rescued') rescues.push(event);
      });

      const waiting = await world.scheduleMany(10, 'query');
      // One has the connection, four wait for it, and five for a slot.
      await until(async () => pool.totalCount === 1 && pool.waitingCount === 4, 'the pool is exhausted');
      const own = service.callWithDelay('quick', null, 0);

      // Rounds: each is claimed, run and recorded before the next one begins.
      for (let round = 0; round < 60; round++) {
        await world.untilEnded([await world.schedule('quick')]);
      }
      const many = await world.scheduleMany(1_000, 'quick');
      const tried = await world.scheduleMany(100, 'second', null, 10);
      expect(new Set((await world.untilEnded(many)).map(({ outcome }) => outcome))).toEqual(
        new Set(['completed']),
      );
      const retried = await world.untilEnded(tried);
      expect(new Set(retried.map(({ outcome, attempt }) => `${outcome} ${attempt}`))).toEqual(
        new Set(['completed 2']),
      );

      const victim = await world.run({ handlers: { hers: {} }, options: { rescueAfter: '5m' } });
      const orphan = await world.schedule('hers', { hold: true });
      await victim.waitFor('holding');
      await victim.kill();
      const [interrupted] = await world.untilEnded([orphan]);
      expect(interrupted).toMatchObject({ outcome: 'interrupted' });

      // The pool was exhausted, and the instance was not lost.
      expect([pool.totalCount, pool.waitingCount, pool.idleCount]).toEqual([1, 5, 0]);
      expect(await world.ended(waiting)).toEqual([]);
      await until(async () => rescues.length === 1, 'the rescue is told of');
      expect(disconnections).toEqual([]);

      await blocker.query(`select pg_advisory_unlock(${KEY})`);
      const { id } = await own;
      await world.accept([id]);
      const ended = await world.untilEnded([...waiting, id]);
      expect(new Set(ended.map(({ outcome, attempt }) => `${outcome} ${attempt}`))).toEqual(
        new Set(['completed 1']),
      );
      expect(new Set(started).size).toBe(started.length);
    }),
  );

  it(
    'comes through any number of handlers that query and schedule at once, without a deadlock',
    inWorld(async (world) => {
      const { dataSource, service } = await bootWithPoolOfOne(world);
      const ids = await world.scheduleMany(300, 'query', { hold: true });
      // Transactions of the app's own beside them.
      for (let i = 0; i < 20; i++) {
        await dataSource.transaction(async (manager) => {
          const call = await service.callWithDelay('query', null, 0, { manager });
          await sleep(1);
          ids.push(call.id);
        });
      }
      await world.accept(ids.slice(300));
      await world.untilEnded(ids);
      const followers = await until(async () => {
        const rows = await world.database.query<{ call_id: string }>(
          `select call_id from future_call_outcome where name = 'quick' and outcome = 'completed'`,
        );
        return rows.length === 300 && rows;
      }, 'what the handlers scheduled has run');
      await world.accept(followers.map((row) => row.call_id));
      expect(started.length).toBe(300 + 20 + 300);
      expect(new Set(started).size).toBe(started.length);
    }),
  );
});
