import { describe, expect, it } from 'vitest';
import type { AppProcess } from '../support/processes.js';
import { PostgresProxy } from '../support/proxy.js';
import { until } from '../support/until.js';
import { expectAtMostOnce, expectNothingLost } from './support/ledger.js';
import { CAN_REPLICATE, replicatedPair, type ReplicatedPair } from './support/standby.js';
import { World } from './support/world.js';

/** Everybody's connections lead to the primary, and after the promotion to what was the standby. */
function inReplicatedWorld(
  work: (world: World, pair: ReplicatedPair, failOver: () => Promise<void>) => Promise<void>,
): () => Promise<void> {
  return async () => {
    const pair = await replicatedPair();
    const proxy = await PostgresProxy.start(pair.primary.url);
    let world: World | undefined;
    try {
      world = await World.create(proxy.url(pair.primary.url));
      await work(world, pair, async () => {
        await pair.failOver();
        proxy.leadTo(pair.standbyUrl);
        proxy.cut();
      });
    } finally {
      await world?.end();
      await proxy.close();
      await pair.stop();
    }
  };
}

const startsOf = (apps: AppProcess[]) =>
  apps.flatMap(({ messages }) => messages.filter(({ type }) => type === 'started'));

const untilStarted = (apps: AppProcess[], count: number) =>
  until(async () => startsOf(apps).length >= count, `${count} calls have started`);

describe.skipIf(!CAN_REPLICATE)(
  'When the primary crashes and its standby is promoted (package postgresql-15)',
  () => {
    it.concurrent(
      'with synchronous replication no call is lost or started twice, and handlers that run go on as the same instance',
      inReplicatedWorld(async (world, pair, failOver) => {
        await pair.synchronous();
        // Long enough to come back: how long a promotion takes is not what is tested.
        const options = { rescueAfter: 10_000 };
        const apps = await Promise.all([world.run({ options }), world.run({ options })]);
        const instances = await Promise.all(apps.map((app) => world.instanceOf(app)));
        const held = await world.scheduleMany(4, 'call', { hold: true });
        await untilStarted(apps, 4);
        const flowing = await world.scheduleMany(2_000, 'call', null, 0);
        const later = await world.scheduleMany(100, 'call', null, 3_000);
        await untilStarted(apps, 100);
        await failOver();

        for (const app of apps) await app.waitForOutput(/has its session back/);
        for (const app of apps) app.send({ type: 'release' });
        const ended = await world.untilEnded([...held, ...flowing, ...later]);
        expect(new Set(ended.map(({ outcome, attempt }) => `${outcome} ${attempt}`))).toEqual(
          new Set(['completed 1']),
        );
        await expectAtMostOnce(world.database);
        await expectNothingLost(world.database);
        // What the processes themselves say: the ledger was on the server that crashed.
        await untilStarted(apps, ended.length);
        const starts = startsOf(apps);
        expect(starts.length).toBe(ended.length);
        expect(new Set(starts.map(({ id }) => id)).size).toBe(ended.length);
        expect(await Promise.all(apps.map((app) => world.instanceOf(app)))).toEqual(instances);
      }),
    );

    it.concurrent(
      'with asynchronous replication a call starts again if its claim had not reached the standby: at most once does not hold',
      inReplicatedWorld(async (world, pair, failOver) => {
        const app = await world.run({ options: { rescueAfter: 10_000 } });
        const id = await world.schedule('call', null, 3_600_000);
        const makeDue = () => world.database.query('update future_call set due_at = now()');
        await pair.detach();
        await makeDue();
        await world.untilEnded([id]);

        await failOver();
        await app.waitForOutput(/has its session back/);
        expect(await world.database.query('select id, attempt from future_call')).toEqual([
          { id, attempt: 0 },
        ]);
        await makeDue();
        await world.untilEnded([id]);
        const starts = await app.waitForCount('started', 2);
        expect(starts.map((start) => [start.id, start.attempt])).toEqual([
          [id, 1],
          [id, 1],
        ]);
      }),
    );
  },
);
