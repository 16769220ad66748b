import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { FutureCall, RetryError, type FutureCallContext, type ScheduleOptions } from '../../lib/index.js';
import { boot, createTables, type BootedApp } from '../support/app.js';
import { createDatabase, type TestDatabase } from '../support/database.js';
import { until } from '../support/until.js';

const NAMES = ['a', 'b', 'c'] as const;

/** How a handler ends. */
const ENDS = {
  'at once': () => {},
  'in a microtask': () => Promise.resolve(),
  'in the next turn': () => nextTurn(),
  'by a timer': () => sleep(2),
  'by throwing': ({ attempt }: FutureCallContext) => {
    if (attempt === 1) throw new Error('thrown');
  },
  'by choosing its next attempt': ({ attempt }: FutureCallContext) => {
    if (attempt === 1) throw new RetryError({ delay: 5 });
  },
};

/** A call, and its data. */
interface Planned {
  readonly handler: (typeof NAMES)[number];
  readonly delay: number;
  readonly end: keyof typeof ENDS;
  /** What its handler schedules. */
  readonly next: Planned[];
}

interface Step {
  readonly instance: number;
  readonly how: 'one after the other' | 'all at once' | 'with callMany' | 'in a transaction';
  readonly calls: Planned[];
  /** Milliseconds before the next step. */
  readonly pause: number;
}

const call = fc.letrec<{ call: Planned }>((tie) => ({
  call: fc.record({
    handler: fc.constantFrom(...NAMES),
    delay: fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, fc.integer({ min: 1, max: 40 })),
    end: fc.constantFrom(...(Object.keys(ENDS) as Planned['end'][])),
    next: fc.oneof(
      { depthSize: 'small' },
      fc.constant<Planned[]>([]),
      fc.array(tie('call'), { maxLength: 2 }),
    ),
  }),
})).call;

const steps = fc.array(
  fc.record<Step>({
    instance: fc.nat(1),
    how: fc.constantFrom('one after the other', 'all at once', 'with callMany', 'in a transaction'),
    // Sometimes enough for calls to be claimed ahead.
    calls: fc.array(call, { minLength: 1, maxLength: 60, size: 'max' }),
    pause: fc.constantFrom(0, 1, 20),
  }),
  { minLength: 1, maxLength: 5 },
);

const limit = fc.constantFrom(1, 2, 4);
const instanceOptions = fc.record({
  concurrency: fc.integer({ min: 1, max: 4 }),
  prefetch: fc.boolean(),
  a: limit,
  b: limit,
  c: limit,
});
type InstanceOptions = typeof instanceOptions extends fc.Arbitrary<infer Options> ? Options : never;

const attempts = ({ end }: Planned) =>
  end === 'by throwing' || end === 'by choosing its next attempt' ? 2 : 1;
const starts = (calls: readonly Planned[]): number =>
  calls.reduce((sum, planned) => sum + attempts(planned) + starts(planned.next), 0);

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
  await createTables(database);
});
afterAll(() => database.drop());

/** An app whose instance never polls while the test lasts. */
class Instance {
  started = 0;
  private app!: BootedApp;

  async start({ concurrency, prefetch, ...limits }: InstanceOptions): Promise<void> {
    this.app = await boot(database, {
      options: { concurrency, prefetch, pollInterval: '1h' },
      providers: NAMES.map((name) => this.handler(name, limits[name])),
    });
  }

  async schedule(how: Step['how'], calls: readonly Planned[]): Promise<void> {
    const { service, dataSource } = this.app;
    const one = (planned: Planned, options?: ScheduleOptions) =>
      service.callWithDelay(planned.handler, planned, planned.delay, options);
    switch (how) {
      case 'one after the other':
        for (const planned of calls) await one(planned);
        break;
      case 'all at once':
        await Promise.all(calls.map((planned) => one(planned)));
        break;
      case 'with callMany':
        await service.callMany(calls.map((data) => ({ handler: data.handler, data, delay: data.delay })));
        break;
      case 'in a transaction':
        await dataSource.transaction(async (manager) => {
          for (const planned of calls) await one(planned, { manager });
        });
    }
  }

  close(): Promise<void> {
    return this.app.close();
  }

  private handler(name: string, concurrency: number) {
    const invoke = (planned: Planned, context: FutureCallContext) => this.run(planned, context);
    @FutureCall(name, { concurrency, attempts: 2, backoff: { type: 'fixed', delay: 5 } })
    class Handler {
      invoke = invoke;
    }
    return Handler;
  }

  private run({ next, end }: Planned, context: FutureCallContext): unknown {
    this.started++;
    if (next.length === 0 || context.attempt > 1) return ENDS[end](context);
    return this.schedule('all at once', next).then(() => ENDS[end](context));
  }
}

/** To replay a failure, set these to the `seed` and `path` of its message. */
const { WAKING_SEED: seed, WAKING_PATH: path, WAKING_RUNS: runs = '15' } = process.env;

it('whatever handlers do and whoever schedules: no call that is due waits for a poll', async () => {
  await fc.assert(
    fc.asyncProperty(instanceOptions, instanceOptions, steps, async (one, other, given) => {
      const instances = [new Instance(), new Instance()] as const;
      try {
        await Promise.all([instances[0].start(one), instances[1].start(other)]);
        for (const { instance, how, calls, pause } of given) {
          await instances[instance]!.schedule(how, calls);
          await sleep(pause);
        }
        const expected = starts(given.flatMap(({ calls }) => calls));
        const started = () => instances[0].started + instances[1].started;
        await until(async () => started() >= expected, `${expected} starts`);
        expect(started()).toBe(expected);
      } finally {
        await Promise.all(instances.map((instance) => instance.close()));
        await database.query('truncate future_call, future_call_running, future_call_outcome');
      }
    }),
    {
      numRuns: Number(runs),
      // What hangs is not shrunk: each try would wait as long again.
      endOnFailure: true,
      ...(seed && { seed: Number(seed) }),
      ...(path && { path }),
    },
  );
});
