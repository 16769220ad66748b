import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { FutureCall, type FutureCallEvent, type FutureCallHandler } from '../../lib/index.js';
import { bootApp, createTables, type BootedApp } from '../support/app.js';
import { createDatabase, type TestDatabase } from '../support/database.js';
import { LogLines } from '../support/log-lines.js';
import { until } from '../support/until.js';

/** What PostgreSQL says of a plan whose result has other types now. */
const REFUSED = { code: '0A000' };

let started = 0;

@FutureCall('start')
class Start implements FutureCallHandler {
  invoke() {
    started++;
  }
}

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
  await createTables(database);
});
afterAll(() => database.drop());

let logger: LogLines;
let booted: BootedApp;
let events: FutureCallEvent[];
beforeEach(async () => {
  logger = new LogLines();
  booted = await bootApp(database, {
    providers: [Start],
    logger,
    // One connection: what it has prepared is there.
    typeorm: { poolSize: 1 },
    options: { retention: { completed: true } },
  });
  events = [];
  booted.service.events.subscribe((event) => events.push(event));
  await runOne();
});

async function runOne(): Promise<void> {
  const before = started;
  await booted.service.callWithDelay(Start, null, 0, { identifier: 'some' });
  await until(async () => started === before + 1, 'it has run');
}

let attempt = 'int';

/** Now the rows of both tables have another type: what a claim answers with, and what a cancel does. */
const changeTypes = (type: string) => {
  attempt = attempt === 'int' ? 'bigint' : 'int';
  return database.query(`
    alter table future_call_running alter column attempt type ${attempt};
    alter table future_call alter column name type ${type}`);
};

describe('statements that are prepared, when a column gets another type', () => {
  it('are prepared anew: a transaction of the app has failed with it, and everything that comes next works', async () => {
    const { service, dataSource } = booted;
    await service.cancel('nobody');
    await changeTypes('varchar(300)');
    const cancel = () => dataSource.transaction((manager) => service.cancel('nobody', { manager }));
    await expect(cancel()).rejects.toMatchObject(REFUSED);
    expect(await cancel()).toBe(0);
    await runOne();

    await changeTypes('varchar(301)');
    await runOne();
    // Without a transaction it is tried again at once.
    expect(await service.cancel('nobody')).toBe(0);
    expect(events.filter(({ type }) => type === 'disconnected')).toEqual([]);
    expect([...logger.warnings, ...logger.stacks]).toEqual([]);
  });

  it('again and again, are prepared no more, which is told once', async () => {
    for (const type of ['varchar(302)', 'varchar(303)', 'varchar(304)', 'text']) {
      await changeTypes(type);
      await runOne();
    }
    expect(logger.warnings).toEqual([
      expect.stringMatching(/^The types of our tables' columns change again and again/),
    ]);
    expect(logger.stacks).toEqual([]);
  });
});
