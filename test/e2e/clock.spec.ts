import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { FutureCall, type FutureCallContext, type FutureCallHandler } from '../../lib/index.js';
import { FutureCallClock } from '../../lib/store/future-call.clock.js';
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
  invoke(data: string, { attempt }: FutureCallContext) {
    Week.runs.push(`${data} ${attempt}`);
    if (data === 'fails' && attempt < 3) throw new Error('on purpose');
  }
}

const hasRun = (what: string) => until(async () => Week.runs.includes(what), `"${what}" runs`);

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

  it('is asked by every statement, and nothing else is', async () => {
    const { dataSource } = await bootApp(database, { options: { execute: false } });
    const tables = futureCallTables(dataSource);
    const texts = (time: { now: string; moment: string }) =>
      Object.values({ ...engineStatements(tables, time), ...serviceStatements(tables, time) })
        .map((statement) => (typeof statement === 'function' ? statement(1) : statement).text)
        .join('\n');
    const TIME = /\bnow\(\)|_timestamp\b(?!tz)|\bcurrent_date\b|'now'|\blocaltime/i;
    expect(texts({ now: 'now()', moment: 'clock_timestamp()' })).toMatch(TIME);
    expect(texts({ now: '<now>', moment: '<moment>' })).not.toMatch(TIME);
  });
});
