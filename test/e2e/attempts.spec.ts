import { connect, type NetConnectOpts } from 'node:net';
import { DataSource } from 'typeorm';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import {
  DoNotRetryError,
  FutureCall,
  FutureCallControl,
  FutureCallService,
  RetryError,
  type FutureCallBackoff,
  type FutureCallContext,
} from '../../lib/index.js';
import { bootApp, createTables } from '../support/app.js';
import { createDatabase, type TestDatabase } from '../support/database.js';
import { LogLines } from '../support/log-lines.js';
import { until } from '../support/until.js';

/** Nobody listens on port 1. */
const UNREACHABLE: NetConnectOpts = {
  host: 'two.addresses',
  port: 1,
  autoSelectFamily: true,
  lookup: (_host, _options, found) =>
    found(null, [
      { address: '127.0.0.1', family: 4 },
      { address: '127.0.0.2', family: 4 },
    ]),
};

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
  await createTables(database);
  // A call that is pending again is so for a moment only.
  await database.query(`
    create table retries (attempt int, errors jsonb, due_at timestamptz);
    create function note_retry() returns trigger language plpgsql as $$
      begin insert into public.retries values (new.attempt, new.errors, new.due_at); return null; end $$;
    create trigger note_retry after insert on future_call for each row when (new.attempt > 0)
      execute function note_retry()`);
});
beforeEach(() => database.query('truncate future_call, future_call_running, future_call_outcome, retries'));
afterAll(() => database.drop());

const outcomeOf = (id: string) =>
  until(async () => {
    const [row] = await database.query<{
      outcome: string;
      attempt: number;
      errors: { attempt: number; message: string }[];
    }>('select outcome, attempt, errors from future_call_outcome where call_id = $1', [id]);
    return row;
  }, `call ${id} has an outcome`);

/** The first call that became pending again: after which attempt, and how long after its error it is due. */
const retried = () =>
  until(async () => {
    const [row] = await database.query<{ attempt: number; errors: unknown[]; due_at: Date; wait: number }>(
      `select *, (extract(epoch from due_at - (errors->-1->>'at')::timestamptz) * 1000)::float8 as wait
       from retries order by attempt`,
    );
    return row;
  }, 'the call is pending again');

describe('a handler that allows further attempts', () => {
  it('is tried again until it completes', async () => {
    const attempts: number[] = [];
    let done!: () => void;
    const completed = new Promise<void>((resolve) => (done = resolve));
    @FutureCall('flaky', { attempts: 5, backoff: { type: 'fixed', delay: 1 } })
    class Flaky {
      invoke(_data: null, call: FutureCallContext) {
        attempts.push(call.attempt);
        if (call.attempt < 3) throw new Error(`attempt ${call.attempt}`);
        done();
      }
    }
    const { service, close } = await bootApp(database, { providers: [Flaky] });
    await service.callWithDelay(Flaky, null, 0);
    await completed;
    await close();
    expect(attempts).toEqual([1, 2, 3]);
    expect(await database.query('select from future_call')).toEqual([]);
    expect(await database.query('select from future_call_outcome')).toEqual([]);
  });

  it('fails after the last one, and every error is kept', async () => {
    @FutureCall('hopeless', { attempts: 3, backoff: () => 0 })
    class Hopeless {
      async invoke(_data: null, call: FutureCallContext) {
        throw new Error(`attempt ${call.attempt}`);
      }
    }
    const { service } = await bootApp(database, { providers: [Hopeless] });
    const { id } = await service.callWithDelay(Hopeless, null, 0);
    const { outcome, attempt, errors } = await outcomeOf(id);
    expect({ outcome, attempt }).toEqual({ outcome: 'failed', attempt: 3 });
    expect(errors.map((error) => [error.attempt, error.message])).toEqual([
      [1, 'attempt 1'],
      [2, 'attempt 2'],
      [3, 'attempt 3'],
    ]);
  });

  it('waits about a second before the second attempt, by default', async () => {
    @FutureCall('default', { attempts: 2 })
    class Default {
      invoke() {
        throw new Error('once');
      }
    }
    const { service } = await bootApp(database, { providers: [Default] });
    await service.callWithDelay(Default, null, 0);
    const row = await retried();
    expect(row).toMatchObject({ attempt: 1, errors: [{ attempt: 1, message: 'once' }] });
    expect(row.wait).toBeGreaterThan(490);
    expect(row.wait).toBeLessThan(1_010);
  });

  it('ends at once when it throws DoNotRetryError', async () => {
    @FutureCall('gives up', { attempts: 5 })
    class GivesUp {
      invoke() {
        throw new DoNotRetryError('no such user', { cause: new Error('404') });
      }
    }
    const { service } = await bootApp(database, { providers: [GivesUp] });
    const { id } = await service.callWithDelay(GivesUp, null, 0);
    expect(await outcomeOf(id)).toMatchObject({
      outcome: 'failed',
      attempt: 1,
      errors: [{ name: 'DoNotRetryError', cause: { message: '404' } }],
    });
  });

  it('chooses the time of the next attempt with RetryError', async () => {
    const at = new Date('2100-01-01T00:00:00Z');
    @FutureCall('later', { attempts: 5 })
    class Later {
      invoke(when: string) {
        throw when === 'at' ? new RetryError({ at }) : new RetryError({ delay: '2h' });
      }
    }
    const { service } = await bootApp(database, { providers: [Later] });
    await service.callWithDelay(Later, 'delay', 0);
    expect(Math.abs((await retried()).wait - 7_200_000)).toBeLessThan(10);
    await database.query('truncate future_call, retries');
    await service.callWithDelay(Later, 'at', 0);
    expect((await retried()).due_at).toEqual(at);
  });

  it.each<[string, FutureCallBackoff, RegExp]>([
    [
      'throws',
      () => {
        throw new Error('oops');
      },
      /^The backoff of BadBackoff failed for future call "bad backoff" \(.*, so the default applies: oops$/,
    ],
    // What nobody handles ends the process, and is an error of the run.
    [
      'rejects',
      (() => Promise.reject(new Error('late'))) as never,
      /the answer is a promise.*must answer at once/,
    ],
    ['answers what is negative', () => -1, /the answer -1 is negative/],
    ['answers nothing', (() => {}) as never, /the answer undefined is not a length of time/],
  ])('falls back to the default when its backoff %s, and is not lost', async (_what, backoff, line) => {
    @FutureCall('bad backoff', { attempts: 2, backoff })
    class BadBackoff {
      invoke() {
        throw new Error('x');
      }
    }
    const logger = new LogLines();
    const { service } = await bootApp(database, { providers: [BadBackoff], logger });
    await service.callWithDelay(BadBackoff, null, 0);
    expect((await retried()).wait).toBeGreaterThan(490);
    expect(logger.lines).toContainEqual(expect.stringMatching(line));
  });

  it('is warned of on one line while attempts remain; the last failure is an error with its stack', async () => {
    @FutureCall('dials', { attempts: 2, backoff: () => 0 })
    class Dials {
      invoke() {
        // A host with two addresses of which none answers: what Node throws has no message of its own.
        return new Promise((_resolve, reject) => void connect(UNREACHABLE).once('error', reject));
      }
    }
    const lines: { level: string; line: string; more: unknown[] }[] = [];
    const keep =
      (level: string) =>
      (line: string, ...more: unknown[]) =>
        void lines.push({ level, line, more });
    const logger = { log() {}, warn: keep('warn'), error: keep('error') };
    const { service, close } = await bootApp(database, { providers: [Dials], logger });
    const { id } = await service.callWithDelay(Dials, null, 0);
    const { errors } = await outcomeOf(id);
    await close();
    const what = /AggregateError: connect \w+ 127\.0\.0\.1:1\b.*; connect \w+ 127\.0\.0\.2:1\b/;
    expect(lines.filter(({ line }) => line.includes('dials'))).toEqual([
      {
        level: 'warn',
        line: expect.stringMatching(
          /^Future call "dials" .* failed, and is tried again in 0ms: [^\n]*$/,
        ) as string,
        more: ['FutureCall'],
      },
      {
        level: 'error',
        line: expect.stringMatching(/^Future call "dials" .* failed: [^\n]*$/) as string,
        more: [expect.stringMatching(/^AggregateError[^]*One of its errors: Error: connect/), 'FutureCall'],
      },
    ]);
    for (const { line } of lines) expect(line).toMatch(what);
    const kept = {
      name: 'AggregateError',
      message: expect.stringMatching(/^connect .*; connect /) as string,
      code: expect.stringMatching(/^E[A-Z]+$/) as string,
    };
    const inner = {
      name: 'Error',
      message: expect.stringMatching(/^connect /) as string,
      code: expect.stringMatching(/^E[A-Z]+$/) as string,
    };
    expect(errors).toMatchObject([1, 2].map((attempt) => ({ attempt, ...kept, errors: [inner, inner] })));
  });
});

describe('a handler with attempts that schedules its own next call', () => {
  const NEXT = 'next';
  const pending = () => database.query('select from future_call');

  it('makes one series more with each attempt', async () => {
    @FutureCall('series', { attempts: 3, backoff: () => 0 })
    class Series {
      constructor(private readonly futureCalls: FutureCallService) {}
      async invoke() {
        await this.futureCalls.callWithDelay('series', null, { days: 1 }, { identifier: NEXT });
        throw new Error('after it');
      }
    }
    const { app, service } = await bootApp(database, { providers: [Series], options: { execute: 'manual' } });
    await service.callWithDelay(Series, null, 0, { identifier: NEXT });
    const counts: number[] = [];
    for (let day = 1; day <= 3; day++) {
      await app.get(FutureCallControl).runDue();
      counts.push((await pending()).length);
      await database.query('update future_call set due_at = now()');
    }
    expect(counts).toEqual([3, 9, 27]);
  });

  it('stays one series if it cancels and schedules in one transaction', async () => {
    @FutureCall('series', { attempts: 3, backoff: () => 0 })
    class Series {
      constructor(
        private readonly futureCalls: FutureCallService,
        private readonly dataSource: DataSource,
      ) {}
      async invoke() {
        await this.dataSource.transaction(async (manager) => {
          await this.futureCalls.cancel(NEXT, { manager });
          await this.futureCalls.callWithDelay('series', null, { days: 1 }, { identifier: NEXT, manager });
        });
        throw new Error('after it');
      }
    }
    const { app, service } = await bootApp(database, { providers: [Series], options: { execute: 'manual' } });
    await service.callWithDelay(Series, null, 0, { identifier: NEXT });
    for (let day = 1; day <= 3; day++) {
      await app.get(FutureCallControl).runDue();
      expect(await pending()).toHaveLength(1);
      await database.query('update future_call set due_at = now()');
    }
  });
});

it('a handler that does not allow further attempts fails also with RetryError', async () => {
  @FutureCall('once')
  class Once {
    invoke() {
      throw new RetryError({ delay: 0 });
    }
  }
  const { service } = await bootApp(database, { providers: [Once] });
  const { id } = await service.callWithDelay(Once, null, 0);
  expect(await outcomeOf(id)).toMatchObject({ outcome: 'failed', attempt: 1 });
});

it('RetryError refuses what is no time', () => {
  expect(() => new RetryError({ at: new Date(NaN) })).toThrow(
    "RetryError's at must be a Date of the years 1 to 9999, but it is Invalid Date.",
  );
  expect(() => new RetryError({ at: new Date(-8.64e15) })).toThrow('of the years 1 to 9999');
  expect(() => new RetryError({ delay: '2y' })).toThrow(
    'RetryError\'s delay "2y" is longer than a year. Use at.',
  );
  expect(() => new RetryError({ delay: 'soon' })).toThrow('"soon" is not a length of time');
});
