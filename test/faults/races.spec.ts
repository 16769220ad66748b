import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { createDatabase } from '../support/database.js';
import type { PostgresProxy, Verdict } from '../support/proxy.js';
import { until } from '../support/until.js';
import {
  answersTo,
  BACK,
  lines,
  LOOK,
  LOST,
  NEW,
  RESCUE,
  tally,
  told,
  untilAnswered,
} from './support/evidence.js';
import { inWorld } from './support/in-world.js';
import { PATIENT } from './support/world.js';

/** Three that miss a lock are enough for a rescuer. */
const SEVERAL_LOOKS = 8;

/** How an instance asks for its own lock. */
const LOCK = /^select pg_try_advisory_lock\(/;

/** Resolves when the proxy is asked what becomes of the next answer to that statement, and has said so. */
function answerTo(proxy: PostgresProxy, awaited: RegExp, verdict: Verdict = 'pass'): Promise<void> {
  return new Promise((resolve) => {
    proxy.judge = ({ statement }) => {
      if (!awaited.test(statement)) return 'pass';
      proxy.judge = () => 'pass';
      resolve();
      return verdict;
    };
  });
}

describe.concurrent('A rescue', () => {
  it(
    'by two at once, of an owner that is just finishing, gives every call one outcome, and the true one',
    inWorld(async (world) => {
      const [proxy, ...theirs] = [await world.proxy(), await world.proxy(), await world.proxy()];
      // Nobody waits for a lock longer than for the dead: long enough for what follows.
      const options = { rescueAfter: 12_000 };
      const [owner, ...rescuers] = await Promise.all([
        world.run({ proxy }),
        ...theirs.map((own) => world.run({ proxy: own, handlers: {}, options })),
      ]);
      const instance = await world.instanceOf(owner);
      const ids = [
        ...(await world.scheduleMany(3, 'call', { hold: true })),
        await world.schedule('call', { hold: true, fail: 1 }),
      ];
      await owner.waitForCount('holding', 4);

      // Whoever comes first is kept from deleting, with the instance's lock in its hands.
      const barrier = await world.barrier('end', instance);
      proxy.refuses = true;
      proxy.cut();
      await owner.waitForOutput(LOST);
      await barrier.reached();
      await until(
        async () => theirs.reduce((sum, own) => sum + answersTo(own, RESCUE), 0) >= 2,
        'the other one has found the lock taken',
      );
      owner.send({ type: 'release' });
      await owner.waitForCount('ended', 4);
      proxy.refuses = false;
      // So does the owner, again and again.
      await untilAnswered(proxy, LOCK, 3);
      expect(owner.output).not.toMatch(BACK);
      await barrier.open();

      await owner.waitForOutput(NEW);
      await until(
        async () => (await world.ended(ids)).every(({ outcome }) => outcome !== 'interrupted'),
        'every guess is corrected',
      );
      const ended = await world.ended(ids);
      expect(tally(ended)).toEqual({ 'completed 1': 3, 'failed 1': 1 });
      expect(ended.at(-1)!.errors).toMatchObject([
        { message: `Attempt 1 of call ${ids[3]} fails on purpose.` },
      ]);
      const rescued = rescuers.flatMap((app) => told(app, 'rescued'));
      expect(rescued).toMatchObject([{ instanceId: instance, calls: 4 }]);
      expect(await world.count(`from future_call_instance where id = ${instance}`)).toBe(0);
    }),
  );

  it(
    'that comes too late, because the instance is back when it begins, takes nothing from it',
    inWorld(async (world) => {
      const [ours, theirs] = [await world.proxy(), await world.proxy()];
      const [owner, rescuer] = await Promise.all([
        world.run({ proxy: ours }),
        // Gives its session up when an answer takes twice as long.
        world.run({ proxy: theirs, handlers: {}, options: { rescueAfter: 4_000 } }),
      ]);
      const ids = await world.scheduleMany(3, 'call', { hold: true });
      await owner.waitForCount('holding', 3);
      // It has seen enough, and its transaction has begun.
      const judged = answerTo(theirs, /^begin/, 'freeze');
      ours.refuses = true;
      ours.cut();
      await judged;
      ours.refuses = false;
      await owner.waitForOutput(BACK);
      const looked = answerTo(theirs, LOOK);
      theirs.thaw();
      await looked;
      expect(lines(rescuer, LOST)).toBe(0);
      expect(told(rescuer, 'rescued')).toEqual([]);
      owner.send({ type: 'release' });
      expect(tally(await world.untilEnded(ids))).toEqual({ 'completed 1': 3 });
      expect(lines(owner, NEW)).toBe(0);
    }),
  );

  it(
    'counts only what was seen on one unbroken session: who was away before the rescuer was, too, has all the time to come back',
    inWorld(async (world) => {
      const rescueAfter = 6_000;
      const [ours, theirs] = [await world.proxy(), await world.proxy()];
      const [owner, rescuer] = await Promise.all([
        world.run({ proxy: ours }),
        world.run({ proxy: theirs, handlers: {}, options: { rescueAfter } }),
      ]);
      const ids = await world.scheduleMany(3, 'call', { hold: true });
      await owner.waitForCount('holding', 3);
      const instance = await world.instanceOf(owner);
      ours.refuses = true;
      ours.cut();
      await until(async () => (await world.backendOf(instance)) === undefined, 'its lock is gone');
      // Seen missing twice; the first of these looks may have been sent a moment too early.
      for (let look = 0; look < 2; look++) await answerTo(theirs, LOOK);
      theirs.refuses = true;
      theirs.cut();
      await rescuer.waitForOutput(LOST);
      await sleep(rescueAfter);
      const looked = answerTo(theirs, LOOK);
      theirs.refuses = false;
      await looked;
      // It would be found dead by the third look from here on, and by this one if the old ones counted.
      ours.refuses = false;
      await owner.waitForOutput(BACK);
      await answerTo(theirs, LOOK);
      expect(told(rescuer, 'rescued')).toEqual([]);
      owner.send({ type: 'release' });
      expect(tally(await world.untilEnded(ids))).toEqual({ 'completed 1': 3 });
      expect(lines(owner, NEW)).toBe(0);
    }),
  );

  it(
    'leaves alone who drains, however long that takes: the lock goes last',
    inWorld(async (world) => {
      const proxy = await world.proxy();
      const [app, bystander] = await Promise.all([world.run(), world.run({ proxy, handlers: {} })]);
      const ids = await world.scheduleMany(3, 'call', { hold: true });
      await app.waitForCount('holding', 3);
      app.send({ type: 'close' });
      await app.waitForOutput(/Waiting for 3 calls to finish/);
      await untilAnswered(proxy, LOOK, SEVERAL_LOOKS);
      app.send({ type: 'release' });
      expect(await app.exited).toEqual({ code: 0, signal: null });
      expect(tally(await world.untilEnded(ids))).toEqual({ 'completed 1': 3 });
      expect(told(bystander, 'rescued')).toEqual([]);
      expect(lines(app, LOST)).toBe(0);
      expect(await world.count(`from future_call_instance where pid = ${app.pid}`)).toBe(0);
    }),
  );

  it(
    'waits for the old backend, though its client is gone, until what it claims has been committed: that is rescued too',
    inWorld(async (world) => {
      const [proxy, theirs] = [await world.proxy(), await world.proxy()];
      const [victim, rescuer] = await Promise.all([
        world.run({ proxy, handlers: { mine: {} }, options: PATIENT }),
        world.run({ proxy: theirs, handlers: {} }),
      ]);
      const instance = await world.instanceOf(victim);
      const barrier = await world.barrier('claim', instance);
      const ids = await world.scheduleMany(3, 'mine');
      await barrier.reached();
      // The server does not hear that it is gone.
      proxy.freeze({ alsoNew: true });
      await victim.kill();
      await untilAnswered(theirs, LOOK, SEVERAL_LOOKS);
      expect(told(rescuer, 'rescued')).toEqual([]);
      await barrier.open();
      await until(
        async () => (await world.count('from future_call_running')) === 3,
        'the claim is committed',
      );
      proxy.cut();
      expect(tally(await world.untilEnded(ids))).toEqual({ 'interrupted 1': 3 });
      // Told after it is committed.
      expect(await rescuer.waitFor('rescued')).toMatchObject({ instanceId: instance, calls: 3 });
      expect(told(rescuer, 'rescued')).toHaveLength(1);
      expect(await world.count('from started')).toBe(0);
    }),
  );

  it.for([false, true])(
    'of an instance that comes back: it becomes a new one and aborts what it runs (the answer to its registration is lost: %s)',
    (losesAnswer) =>
      inWorld(async (world) => {
        const proxy = await world.proxy();
        const victim = await world.run({ proxy });
        const instance = await world.instanceOf(victim);
        const call = await world.schedule('call', { hold: true });
        const again = await world.schedule('again', { hold: true });
        await victim.waitForCount('holding', 2);
        const heir = await world.run();
        proxy.refuses = true;
        proxy.cut();
        await heir.waitFor('rescued');
        await heir.waitFor(({ type, id, attempt }) => type === 'holding' && id === again && attempt === 2);

        if (losesAnswer) {
          const lost = new Promise<void>((resolve) => {
            proxy.judge = ({ statement }) => {
              if (!/^insert into .*future_call_instance/.test(statement)) return 'pass';
              proxy.judge = () => 'pass';
              resolve();
              return 'cut';
            };
          });
          proxy.refuses = false;
          await lost;
        }
        proxy.refuses = false;
        await victim.waitForOutput(NEW);
        await victim.waitForCount('aborted', 2);
        expect(await world.instanceOf(victim)).toBeGreaterThan(instance);
        victim.send({ type: 'release' });
        await until(
          async () => (await world.ended([call]))[0]!.outcome === 'completed',
          'the guess is corrected',
        );
        // It runs calls under its new name.
        expect(await world.untilEnded([await world.schedule('call')])).toMatchObject([
          { outcome: 'completed' },
        ]);
        expect(await world.ended([again])).toEqual([]);
        heir.send({ type: 'release' });
        expect(await world.untilEnded([again])).toMatchObject([
          { outcome: 'completed', attempt: 2, pid: heir.pid },
        ]);
      })(),
  );

  it(
    'by a process that has no handler for the calls gives them the further attempts that their own one allows',
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

  it(
    'is not confused by a copy of the database beside it, whose instances have the same ids and locks',
    inWorld(async (world) => {
      // A crash leaves a row of an instance and a running call in both.
      const first = await world.run();
      const orphan = await world.schedule('call', { hold: true });
      await first.waitFor('holding');
      await first.kill();
      // The same tables, rows and sequences.
      const copy = await createDatabase({ template: world.database.name });
      world.onEnd(() => copy.drop());

      const [original, dead] = await Promise.all([world.run(), world.run({ url: copy.url })]);
      expect(tally(await world.untilEnded([orphan]))).toEqual({ 'interrupted 1': 1 });
      await dead.waitFor('rescued');
      expect(await copy.query('select from future_call_outcome')).toHaveLength(1);
      // Two living instances of one id hold one lock each; then one of them dies.
      expect(await copy.query('select id from future_call_instance')).toEqual([
        { id: await world.instanceOf(original) },
      ]);
      const held = await world.schedule('call', { hold: true });
      await original.waitFor('holding');
      await dead.kill();
      const survivor = await world.run({ url: copy.url });
      await survivor.waitFor('rescued');
      expect(told(original, 'rescued')).toHaveLength(1);
      original.send({ type: 'release' });
      expect(tally(await world.untilEnded([held]))).toEqual({ 'completed 1': 1 });
    }),
  );
});

describe.concurrent('A cancel', () => {
  it(
    'of calls that are being claimed waits for the claim and cancels only the others: what was claimed starts once',
    inWorld(async (world) => {
      const app = await world.run({ options: PATIENT });
      const barrier = await world.barrier('claim', await world.instanceOf(app));
      const claimed = await world.schedule('call', null, 0, { identifier: 'user 1' });
      await barrier.reached();
      const later = await world.schedule('call', null, 60_000, { identifier: 'user 1' });
      const cancelled = world.service.cancel('user 1');
      await until(
        async () =>
          (await world.count(
            `from pg_stat_activity where wait_event_type = 'Lock' and application_name = 'scheduler' and datname = current_database()`,
          )) > 0,
        'the cancel waits',
      );
      await barrier.open();
      expect(await cancelled).toBe(1);
      const ended = await world.untilEnded([claimed, later]);
      expect(ended.map(({ outcome }) => outcome)).toEqual(['completed', 'cancelled']);
    }),
  );

  it.for(['commits', 'rolls back'] as const)(
    'in a transaction that %s after the due time decides then: the call is not started before',
    (end) =>
      inWorld(async (world) => {
        const id = await world.schedule('call', null, 0, { identifier: 'user 1' });
        const transaction = await world.transaction();
        expect(await world.service.cancel('user 1', { manager: transaction.manager })).toBe(1);
        await world.run();
        await world.untilEnded([await world.schedule('call')]);
        expect(await world.count(`from started where call_id = ${id}`)).toBe(0);
        if (end === 'commits') await transaction.commitTransaction();
        else await transaction.rollbackTransaction();
        expect(await world.untilEnded([id])).toMatchObject([
          { outcome: end === 'commits' ? 'cancelled' : 'completed' },
        ]);
      })(),
  );
});

describe.concurrent('A call that is scheduled in a transaction', () => {
  it.for(['commits', 'rolls back'] as const)(
    'which %s after its due time starts if and only if it commits',
    (end) =>
      inWorld(async (world) => {
        await world.run();
        const transaction = await world.transaction();
        const { id } = await world.service.callWithDelay('call', null, 500, { manager: transaction.manager });
        const after = await world.schedule('call', null, 1_000);
        await world.untilEnded([after]);
        expect(await world.count(`from started where call_id = ${id}`)).toBe(0);
        if (end === 'commits') await world.accept([id]);
        if (end === 'commits') await transaction.commitTransaction();
        else await transaction.rollbackTransaction();
        // Who claims this one claims what was due before it.
        const last = await world.schedule('call');
        await world.untilEnded(end === 'commits' ? [id, last] : [last]);
        const started = await world.database.query('select call_id from started order by call_id');
        expect(started.map(({ call_id }) => call_id)).toEqual([
          ...(end === 'commits' ? [id] : []),
          after,
          last,
        ]);
      })(),
  );
});
