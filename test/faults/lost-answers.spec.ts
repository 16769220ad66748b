import { describe, expect, it } from 'vitest';
import type { HeldAnswer, PostgresProxy } from '../support/proxy.js';
import { until } from '../support/until.js';
import { BACK, LOST, told } from './support/evidence.js';
import { inWorld } from './support/in-world.js';
import { PATIENT, type World } from './support/world.js';

/** The query_timeout of an app, and for how long a claim outlasts it. */
const TIMEOUT = 5_000;
const LONGER = '6s';

/** Ends the connection instead of giving the first answer that is meant. Resolves with that answer. */
function loseFirst(proxy: PostgresProxy, isMeant: (answer: HeldAnswer) => boolean): Promise<HeldAnswer> {
  let lost: HeldAnswer | undefined;
  proxy.judge = (answer) => {
    if (!isMeant(answer)) return 'pass';
    proxy.judge = () => 'pass';
    lost = answer;
    return 'cut';
  };
  return until(async () => lost, 'the answer comes that is to be lost');
}

const named = (name: string) => (answer: HeldAnswer) => answer.statement === name;

const attemptsOf = (world: World, ids: readonly string[]) =>
  world.database.query<{ call_id: string; attempts: number[] }>(
    `select call_id, array_agg(attempt order by at) as attempts from started where call_id = any ($1::bigint[]) group by 1 order by 1`,
    [ids],
  );

describe.concurrent('When the answer never arrives', () => {
  it(
    'to a claim that was committed: its calls are given back unstarted by the same instance, and start once',
    inWorld(async (world) => {
      const proxy = await world.proxy();
      const app = await world.run({ proxy });
      const instance = await world.instanceOf(app);
      const lost = loseFirst(proxy, ({ statement, rows }) => statement === 'future_call_claim' && rows > 1);
      const ids = await world.scheduleMany(5, 'call');
      // Some of them, and a notification.
      expect((await lost).rows).toBeGreaterThan(1);
      const ended = await world.untilEnded(ids);
      expect(ended.map(({ outcome, attempt }) => [outcome, attempt])).toEqual(
        ids.map(() => ['completed', 1]),
      );
      expect(await attemptsOf(world, ids)).toEqual(ids.map((call_id) => ({ call_id, attempts: [1] })));
      expect(await world.instanceOf(app)).toBe(instance);
      await app.waitForOutput(new RegExp(`Instance ${instance} has its session back`));
    }),
  );

  it(
    'to the end of an attempt: it is recorded once, whether it completed or failed, kept or not',
    inWorld(async (world) => {
      const kept = await world.proxy();
      const notKept = await world.proxy();
      const keeps = await world.run({ proxy: kept, handlers: { call: {} }, options: PATIENT });

      const completed = loseFirst(kept, named('future_call_complete_keep'));
      const id = await world.schedule('call');
      expect((await completed).tag).toBe('INSERT 0 1');
      expect(await world.untilEnded([id])).toMatchObject([
        { outcome: 'completed', attempt: 1, errors: null },
      ]);

      const failed = loseFirst(kept, named('future_call_fail'));
      const bad = await world.schedule('call', { fail: 1 });
      expect((await failed).tag).toBe('INSERT 0 1');
      await keeps.waitForOutput(/has its session back[^]*has its session back/);
      expect(await world.untilEnded([bad])).toMatchObject([
        { outcome: 'failed', errors: [{ name: 'Error' }] },
      ]);

      const doesNot = await world.run({
        proxy: notKept,
        handlers: { brief: {} },
        options: { ...PATIENT, retention: {} },
      });
      // It deletes what others have kept.
      await world.database.query('truncate accepted, future_call_outcome');
      const gone = loseFirst(notKept, named('future_call_complete'));
      await world.service.callWithDelay('brief', null, 0);
      expect((await gone).tag).toBe('DELETE 1');
      await doesNot.waitForOutput(BACK);
      await doesNot.waitForCount('ended', 1);
      expect(await world.count(`from started where name = 'brief'`)).toBe(1);

      // Nothing is left to be recorded: both can go at once.
      for (const app of [keeps, doesNot])
        expect(await app.terminate()).toEqual({ code: null, signal: 'SIGTERM' });
      expect(await world.count('from future_call_running')).toBe(0);
      expect(await world.count('from future_call_instance')).toBe(0);
    }),
  );

  it(
    'to a retry: there is one further attempt, not two',
    inWorld(async (world) => {
      const proxy = await world.proxy();
      const app = await world.run({ proxy });
      const lost = loseFirst(proxy, named('future_call_retry'));
      const id = await world.schedule('again', { fail: 1 });
      expect((await lost).rows).toBeGreaterThan(0);
      expect(await world.untilEnded([id])).toMatchObject([
        {
          outcome: 'completed',
          attempt: 2,
          errors: [{ message: `Attempt 1 of call ${id} fails on purpose.` }],
        },
      ]);
      expect(await attemptsOf(world, [id])).toEqual([{ call_id: id, attempts: [1, 2] }]);
      await app.waitForOutput(BACK);
    }),
  );

  it(
    'to a release while the app closes: what had not started is pending, what runs is finished, and another process starts the rest once',
    inWorld(async (world) => {
      const proxy = await world.proxy();
      const app = await world.run({ proxy, options: PATIENT });
      const running = await world.schedule('call', { hold: true });
      await app.waitFor('holding');
      // The drain begins while a claim is on its way: what that brings is not started any more.
      const barrier = await world.barrier('claim', await world.instanceOf(app));
      const rest = await world.scheduleMany(5, 'call');
      await barrier.reached();
      app.send({ type: 'close' });
      await app.waitFor('closing');
      const lost = loseFirst(proxy, named('future_call_release'));
      await barrier.open();
      // Some of them, and a notification.
      expect((await lost).rows).toBeGreaterThan(1);
      await app.waitForOutput(LOST);
      await app.waitForOutput(BACK);
      app.send({ type: 'release' });
      expect(await app.exited).toEqual({ code: 0, signal: null });
      expect(await world.untilEnded([running])).toMatchObject([{ outcome: 'completed' }]);
      expect(await world.database.query('select id, attempt from future_call order by id')).toEqual(
        rest.map((id) => ({ id, attempt: 0 })),
      );

      const other = await world.run();
      const ended = await world.untilEnded(rest);
      expect(ended.map(({ outcome, attempt, pid }) => [outcome, attempt, pid])).toEqual(
        rest.map(() => ['completed', 1, other.pid]),
      );
    }),
  );
});

describe.concurrent('A claim', () => {
  it(
    'can be read whatever parsers the app has set for all of pg: they may throw at every type',
    inWorld(async (world) => {
      // int8, int4, json, timestamp, timestamptz, jsonb, bool, int4[], text[]
      const app = await world.run({
        env: { THROWING_PARSERS: '[20, 23, 114, 1114, 1184, 3802, 16, 1007, 1009]' },
      });
      const ids = await world.scheduleMany(3, 'call');
      ids.push(await world.schedule('call', { fail: 1 }), await world.schedule('again', { fail: 1 }));
      const ended = await world.untilEnded(ids);
      expect(ended.map(({ outcome }) => outcome)).toEqual([
        'completed',
        'completed',
        'completed',
        'failed',
        'completed',
      ]);
      expect(told(app, 'disconnected')).toEqual([]);
      expect(await app.terminate()).toEqual({ code: null, signal: 'SIGTERM' });
    }),
  );

  it.for([
    ['in the options of its data source', { typeorm: { extra: { query_timeout: TIMEOUT } } }],
    ['as a default of pg', { env: { QUERY_TIMEOUT: String(TIMEOUT) } }],
    ['in its connection string', { url: `?query_timeout=${TIMEOUT}` }],
  ] as const)('may take longer than the query_timeout that the app has set %s', ([, options]) =>
    inWorld(async (world) => {
      const url =
        'url' in options
          ? world.database.url + options.url.replace('?', world.database.url.includes('?') ? '&' : '?')
          : undefined;
      const app = await world.run({ options: PATIENT, ...options, ...(url !== undefined && { url }) });
      const instance = await world.instanceOf(app);
      const backend = await world.backendOf(instance);
      const barrier = await world.barrier('claim', instance);
      const id = await world.schedule('call');
      await barrier.reached();
      await world.outlast(instance, 'active', LONGER);
      expect(await world.backendOf(instance)).toBe(backend);
      await barrier.open();
      expect(await world.untilEnded([id])).toMatchObject([{ outcome: 'completed', attempt: 1 }]);
      expect(await world.backendOf(instance)).toBe(backend);
    })(),
  );
});
