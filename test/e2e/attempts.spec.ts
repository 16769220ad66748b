import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { DoNotRetryError, FutureCall, RetryError, type FutureCallContext } from '../../lib/index.js';
import { bootApp, createTables } from '../support/app.js';
import { createDatabase, type TestDatabase } from '../support/database.js';
import { until } from '../support/until.js';

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

  it('falls back to the default when its backoff fails, and is not lost', async () => {
    @FutureCall('bad backoff', {
      attempts: 2,
      backoff: () => {
        throw new Error('oops');
      },
    })
    class BadBackoff {
      invoke() {
        throw new Error('x');
      }
    }
    const { service } = await bootApp(database, { providers: [BadBackoff] });
    await service.callWithDelay(BadBackoff, null, 0);
    expect((await retried()).wait).toBeGreaterThan(490);
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
