import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createDatabase, type TestDatabase } from '../support/database.js';
import { spawnApp } from '../support/processes.js';
import { until } from '../support/until.js';

let database: TestDatabase;
beforeEach(async () => {
  database = await createDatabase();
  await database.query('create table started (call_id bigint, attempt int, pid int)');
});
afterEach(() => database.drop());

const start = (options: object = {}) =>
  spawnApp('calls-app', {
    env: { DATABASE_URL: database.url, FUTURE_CALL_OPTIONS: JSON.stringify(options) },
  });

const insertMarks = (count: number) =>
  database.query(`insert into future_call (name, due_at) select 'mark', now() from generate_series(1, $1)`, [
    count,
  ]);

const everythingStarted = (count: number) =>
  until(async () => {
    const [row] = await database.query<{ n: string }>('select count(*) as n from started');
    return Number(row!.n) >= count;
  }, `${count} calls have started`);

const remaining = async () => {
  const [row] = await database.query<{
    pending: string;
    running: string;
    outcomes: string;
    instances: string;
  }>(
    `select (select count(*) from future_call) as pending, (select count(*) from future_call_running) as running,
            (select count(*) from future_call_outcome) as outcomes, (select count(*) from future_call_instance) as instances`,
  );
  return row!;
};

describe('several instances', () => {
  it('start each call at most once, and miss none: 4 processes, 5,000 calls', async () => {
    const apps = [start(), start(), start(), start()];
    await Promise.all(apps.map((app) => app.waitFor('ready')));
    await insertMarks(4_000);
    apps.forEach((app) => app.send({ type: 'schedule', handler: 'mark', count: 250 }));
    await everythingStarted(5_000);
    apps.forEach((app) => app.send({ type: 'close' }));
    expect(await Promise.all(apps.map((app) => app.exited))).toEqual(
      apps.map(() => ({ code: 0, signal: null })),
    );

    const [counts] = await database.query(
      'select count(*) as starts, count(distinct call_id) as calls, count(distinct pid) as processes from started',
    );
    expect(counts).toEqual({ starts: '5000', calls: '5000', processes: '4' });
    expect(await remaining()).toEqual({ pending: '0', running: '0', outcomes: '0', instances: '0' });
  });

  it('mark the calls of one that was killed as interrupted, and never run them again', async () => {
    const options = { rescueAfter: 1_000 };
    const victim = start(options);
    await victim.waitFor('ready');
    victim.send({ type: 'schedule', handler: 'hold', count: 3 });
    await victim.waitForCount('holding', 3);
    const survivor = start(options);
    await survivor.waitFor('ready');
    await victim.kill();

    const interrupted = await until(async () => {
      const rows = await database.query(
        `select name, outcome, attempt, pid, errors from future_call_outcome order by call_id`,
      );
      return rows.length === 3 && rows;
    }, 'the survivor has found the calls of the victim');
    for (const row of interrupted) {
      expect(row).toMatchObject({
        name: 'hold',
        outcome: 'interrupted',
        attempt: 1,
        pid: victim.pid,
        errors: [{ attempt: 1, name: 'Interrupted', message: 'The instance that ran this call died.' }],
      });
    }
    await survivor.waitForOutput(
      new RegExp(`pid ${victim.pid}\\) was taken for dead: .* Interrupted 3 calls: "hold"`),
    );
    survivor.send({ type: 'schedule', handler: 'mark' });
    await everythingStarted(4);
    await until(async () => (await remaining()).running === '0', 'the new call has ended');
    expect(await remaining()).toEqual({ pending: '0', running: '0', outcomes: '3', instances: '1' });
  });

  it.each([
    ['ends the process', 3],
    ['throws in a timer', 1],
  ])('lose no call of another handler when one %s', async (what, code) => {
    const options = { rescueAfter: 1_000, pollInterval: 1_000 };
    const victim = start(options);
    await victim.waitFor('ready');
    victim.send({ type: 'schedule', handler: 'mark', delay: 3_600_000, count: 5 });
    await victim.waitFor('scheduled');
    victim.send({ type: 'schedule', handler: 'hold' });
    await victim.waitFor('holding');
    victim.send({ type: 'schedule', handler: 'careless', data: what });
    expect(await victim.exited).toEqual({ code, signal: null });

    const survivor = start(options);
    await survivor.waitForOutput(/was taken for dead: .* Interrupted 2 calls/);
    expect(await remaining()).toEqual({ pending: '5', running: '0', outcomes: '2', instances: '1' });
    await database.query('update future_call set due_at = now()');
    await everythingStarted(6);
  });

  it('lose no call of another handler to a rejection that one leaves behind: who survives tries again what may be', async () => {
    const options = { rescueAfter: 1_000, retention: { completed: true } };
    const victim = start(options);
    await victim.waitFor('ready');
    victim.send({ type: 'schedule', handler: 'mark', delay: 3_600_000, count: 5 });
    await victim.waitFor('scheduled');
    victim.send({ type: 'schedule', handler: 'hold' });
    victim.send({ type: 'schedule', handler: 'hold again' });
    await victim.waitForCount('holding', 2);
    victim.send({ type: 'schedule', handler: 'careless', data: 'leaves a rejection behind' });
    const outcomes = () =>
      database.query('select name, outcome, attempt, pid from future_call_outcome order by name');
    const completed = { name: 'careless', outcome: 'completed', attempt: 1, pid: victim.pid };
    await until(async () => (await outcomes()).length === 1, 'the careless one has ended');
    expect(await outcomes()).toEqual([completed]);

    // Node's own answer to a rejection that nobody handles.
    victim.send({ type: 'reject' });
    expect(await victim.exited).toEqual({ code: 1, signal: null });
    expect(victim.output).toMatch(/Error: left behind/);

    const survivor = start(options);
    await survivor.waitForOutput(/was taken for dead: .* Interrupted 2 calls/);
    await survivor.waitFor('holding');
    survivor.send({ type: 'release' });
    await until(async () => (await outcomes()).length === 3, 'the second attempt has ended');
    expect(await outcomes()).toEqual([
      completed,
      { name: 'hold', outcome: 'interrupted', attempt: 1, pid: victim.pid },
      { name: 'hold again', outcome: 'completed', attempt: 2, pid: survivor.pid },
    ]);
    expect(await remaining()).toEqual({ pending: '5', running: '0', outcomes: '3', instances: '1' });
  });

  it('do not wait for ever for a handler that never settles: others go on beside it, and the drain marks it as interrupted', async () => {
    const app = start({ concurrency: 2, shutdownTimeout: 50 });
    await app.waitFor('ready');
    app.send({ type: 'schedule', handler: 'careless', data: 'never settles' });
    await app.waitFor('scheduled');
    await until(async () => (await remaining()).running === '1', 'it runs');
    app.send({ type: 'schedule', handler: 'mark', count: 20 });
    await everythingStarted(20);
    app.send({ type: 'schedule', handler: 'mark', delay: 3_600_000, count: 5 });
    await app.waitForCount('scheduled', 3);
    await until(async () => (await remaining()).running === '1', 'all the others have ended');

    app.send({ type: 'close' });
    await app.waitForOutput(/Waiting for 1 calls? to finish, at most 50 ms/);
    expect(await app.exited).toEqual({ code: 0, signal: null });
    expect(app.output).toMatch(/The drain is over\. Interrupted 1 call: "careless"/);
    expect(await database.query('select name, outcome from future_call_outcome')).toEqual([
      { name: 'careless', outcome: 'interrupted' },
    ]);
    expect(await remaining()).toEqual({ pending: '5', running: '0', outcomes: '1', instances: '0' });
  });

  it('run after a restart what was scheduled before it', async () => {
    const first = start({ execute: false });
    await first.waitFor('ready');
    first.send({ type: 'schedule', handler: 'mark', count: 5 });
    await first.waitFor('scheduled');
    expect(await first.terminate()).toEqual({ code: null, signal: 'SIGTERM' });
    expect(await remaining()).toEqual({ pending: '5', running: '0', outcomes: '0', instances: '0' });

    await start().waitFor('ready');
    await everythingStarted(5);
  });

  it('wake each other: a process that executes nothing schedules, another one runs it long before its poll', async () => {
    const runner = start({ pollInterval: '1h' });
    const scheduler = start({ execute: false });
    await Promise.all([runner.waitFor('ready'), scheduler.waitFor('ready')]);
    scheduler.send({ type: 'schedule', handler: 'mark' });
    scheduler.send({ type: 'schedule', handler: 'mark', delay: 300 });
    await everythingStarted(2);
  });

  it('finish what runs before they close, and give back what has not started', async () => {
    const app = start({ concurrency: 2 });
    await app.waitFor('ready');
    app.send({ type: 'schedule', handler: 'hold', count: 4 });
    await app.waitFor('scheduled');
    await app.waitForCount('holding', 2);
    app.send({ type: 'close' });
    await app.waitForOutput(/Waiting for 2 calls to finish/);
    app.send({ type: 'release' });
    expect(await app.exited).toEqual({ code: 0, signal: null });
    expect(await remaining()).toEqual({ pending: '2', running: '0', outcomes: '0', instances: '0' });
    expect(await database.query('select attempt from future_call')).toEqual([{ attempt: 0 }, { attempt: 0 }]);
  });

  it('abort the signal when shutdownTimeout is over, and mark what still runs as interrupted', async () => {
    const app = start({ shutdownTimeout: 50 });
    await app.waitFor('ready');
    app.send({ type: 'schedule', handler: 'hold' });
    await app.waitFor('holding');
    app.send({ type: 'close' });
    await app.waitFor('aborted');
    await app.waitFor('closed');
    expect(
      await database.query('select outcome, errors->0->>$1 as why from future_call_outcome', ['message']),
    ).toEqual([{ outcome: 'interrupted', why: 'Its instance stopped before the call had finished.' }]);
    expect(await remaining()).toMatchObject({ running: '0', instances: '0' });
  });
});
