import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  FutureCall,
  FutureCallControl,
  type FutureCallContext,
  type FutureCallHandler,
} from '../../lib/index.js';
import { FutureCallClock } from '../../lib/store/future-call.clock.js';
import { dueStatements } from '../../lib/store/future-call.due-sql.js';
import { engineStatements } from '../../lib/store/future-call.engine-sql.js';
import { serviceStatements } from '../../lib/store/future-call.service-sql.js';
import { futureCallTables } from '../../lib/tables/future-call.tables.js';
import { bootApp, createTables } from '../support/app.js';
import { createDatabase, type TestDatabase } from '../support/database.js';
import { until } from '../support/until.js';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
  await createTables(database);
});
afterAll(() => database.drop());

const DAY = 86_400_000;

@FutureCall('week', { attempts: 3, backoff: { type: 'fixed', delay: '1d' } })
class Week implements FutureCallHandler<string> {
  static readonly runs: string[] = [];
  invoke(data: string, { attempt, signal }: FutureCallContext) {
    Week.runs.push(`${data} ${attempt}`);
    if (data === 'fails' && attempt < 3) throw new Error('on purpose');
    if (data === 'holds') return new Promise((resolve) => signal.addEventListener('abort', resolve));
    return null;
  }
}

const hasRun = (what: string) => until(async () => Week.runs.includes(what), `"${what}" runs`);

/** All times of all rows, by table and column, as days from now. */
async function times(): Promise<Record<string, number>> {
  const columns = await database.query<{ table: string; column: string }>(
    `select table_name as "table", column_name as "column" from information_schema.columns
     where table_name like 'future\\_call%' and data_type = 'timestamp with time zone'`,
  );
  const found: Record<string, number> = {};
  for (const { table, column } of columns) {
    const rows = await database.query<{ days: number }>(
      `select extract(epoch from "${column}" - now())::float8 / 86400 as days from "${table}" where "${column}" is not null`,
    );
    rows.forEach(({ days }, i) => (found[`${table}.${column} ${i}`] = days));
  }
  const errors = await database.query<{ days: number }>(
    `select extract(epoch from (error ->> 'at')::timestamptz - now())::float8 / 86400 as days
     from future_call_outcome, jsonb_array_elements(errors) error`,
  );
  errors.forEach(({ days }, i) => (found[`errors.at ${i}`] = days));
  return found;
}

describe('the clock of an app', () => {
  it('moves all of it, and no row: what is due in a week is due now', async () => {
    const { app, service } = await bootApp(database, {
      providers: [Week],
      options: { pollInterval: 100, rescueAfter: 500, retention: { completed: true, cancelled: true } },
    });
    const clock = app.get(FutureCallClock);
    await service.callWithDelay(Week, 'later', { days: 7 });
    await service.callWithDelay(Week, 'fails', { days: 6 });
    clock.moveBy(6 * DAY);
    await hasRun('fails 1');
    clock.moveBy(DAY);
    await hasRun('fails 2');
    await hasRun('later 1');
    clock.moveBy(DAY);
    await hasRun('fails 3');
    await until(
      async () => (await database.query('select from future_call_outcome')).length === 2,
      'both have their outcome',
    );
    expect(Week.runs.filter((run) => run.startsWith('fails'))).toEqual(['fails 1', 'fails 2', 'fails 3']);
  });

  it('is written by every statement: no time is left to a default of a column', async () => {
    const { app, service, dataSource } = await bootApp(database, {
      providers: [Week],
      options: {
        execute: 'manual',
        rescueAfter: 500,
        shutdownTimeout: 0,
        retention: { completed: true, cancelled: true },
      },
    });
    await database.query('truncate future_call_outcome');
    app.get(FutureCallClock).moveBy(100 * DAY);
    await service.callWithDelay(Week, 'pending', 0);
    await service.callAtTime(Week, 'at a time', new Date(Date.now() + 101 * DAY));
    await service.callMany([{ handler: Week, data: 'completes', delay: 0 }]);
    await service.callWithDelay(Week, 'fails', 0);
    await service.callWithDelay(Week, 'cancelled', 0, { identifier: 'x' });
    await service.cancel('x');
    const control = app.get(FutureCallControl);
    await control.runDue();
    // Now an instance that is there while we look, and one whose calls it rescues.
    await service.callWithDelay(Week, 'holds', 0);
    await control.start();
    await until(async () => Week.runs.includes('holds 1'), 'a call runs');
    await dataSource.query(`insert into future_call_running (id, name, due_at, attempt, instance_id, claim, created_at, claimed_at)
      select 1000000, 'week', due_at, 3, 1000000, 1, created_at, claimed_at from future_call_running limit 1`);
    await until(
      async () =>
        (await database.query('select from future_call_outcome where call_id = 1000000')).length > 0,
      'the instance that died is rescued',
    );
    const found = await times();
    expect(Object.keys(found).map((name) => name.replace(/ \d+$/, ''))).toEqual(
      expect.arrayContaining([
        'future_call.due_at',
        'future_call.created_at',
        'future_call_running.claimed_at',
        'future_call_running.created_at',
        'future_call_outcome.started_at',
        'future_call_outcome.finished_at',
        'future_call_outcome.created_at',
        'future_call_instance.started_at',
        'errors.at',
      ]),
    );
    expect(Object.entries(found).filter(([, days]) => days < 99)).toEqual([]);
  });

  it('is asked by every statement, and nothing else is', async () => {
    const { dataSource } = await bootApp(database, { options: { execute: false } });
    const tables = futureCallTables(dataSource);
    const texts = (time: { now: string; moment: string }) =>
      [dueStatements, engineStatements, serviceStatements]
        .flatMap((statementsOf) => Object.values(statementsOf(tables, time)))
        .map((statement) => (typeof statement === 'function' ? statement(1) : statement).text)
        .join('\n');
    const TIME = /\bnow\(\)|_timestamp\b(?!tz)|\bcurrent_date\b|'now'|\blocaltime/i;
    expect(texts({ now: 'now()', moment: 'clock_timestamp()' })).toMatch(TIME);
    expect(texts({ now: '<now>', moment: '<moment>' })).not.toMatch(TIME);
  });
});
