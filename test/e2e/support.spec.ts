import path from 'node:path';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createDatabase, type TestDatabase } from '../support/database.js';
import { spawnApp, type AppMessage } from '../support/processes.js';
import { PostgresProxy, type HeldAnswer } from '../support/proxy.js';

const APPS = path.resolve(import.meta.dirname, '../../.cache/apps');

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(() => database.drop());

const start = () => spawnApp('idle-app', { env: { DATABASE_URL: database.url } });

describe('createDatabase', () => {
  it('gives a database of its own, and removes it while others are connected', async () => {
    const one = await createDatabase();
    await one.query('create table only_here ()');
    expect(await database.query(`select to_regclass('only_here') as found`)).toEqual([{ found: null }]);
    await one.pool.connect().then((client) => client.on('error', () => {}).release());
    await one.drop();
    await one.drop();
    expect(await database.query('select from pg_database where datname = $1', [one.name])).toEqual([]);
  });
});

describe('spawnApp', () => {
  it('talks with a Nest app, which ends by itself when it is closed', async () => {
    const app = start();
    await app.waitFor('ready');
    app.send({ type: 'echo', text: 'hello' });
    expect(await app.waitFor('echoed')).toEqual({ type: 'echoed', text: 'hello' });
    app.send({ type: 'close' });
    expect(await app.exited).toEqual({ code: 0, signal: null });
    expect(app.messages.map((message) => message.type)).toEqual(['ready', 'echoed', 'closed']);
    expect(app.output).toContain('Nest');
  });

  it('loads each library once: what is bundled, and nothing beside it', async () => {
    const app = start();
    await app.waitFor('ready');
    app.send({ type: 'files' });
    const { files } = await app.waitFor<AppMessage & { files: string[] }>('files');
    expect(files.map((file) => path.relative(APPS, file).replaceAll(path.sep, '/'))).toEqual([
      'test/support/libraries/load.cjs',
      'node_modules/pg/index.cjs',
    ]);
  });

  it('freezes, continues and kills it', async () => {
    const app = start();
    await app.waitFor('ready');
    app.signal('SIGSTOP');
    app.send({ type: 'echo', text: 'frozen' });
    app.signal('SIGCONT');
    await app.waitFor((message) => message.type === 'echoed' && message.text === 'frozen');
    app.signal('SIGSTOP');
    expect(await app.kill()).toEqual({ code: null, signal: 'SIGKILL' });
    expect(app.signal('SIGTERM')).toBe(false);
  });

  it('terminates it', async () => {
    const app = start();
    await app.waitFor('ready');
    expect(await app.terminate()).toMatchObject({ signal: 'SIGTERM' });
  });

  it('says what it printed when it ends too early', async () => {
    const app = spawnApp('idle-app', { env: { DATABASE_URL: 'mysql://nowhere' } });
    await expect(app.waitFor('ready', { timeout: 1 })).rejects.toThrow(/did not give, in 1 ms, "ready"/);
    const waiting = app.waitFor('ready');
    await app.kill();
    await expect(waiting).rejects.toThrow(/ended \(SIGKILL\) before "ready"/);
  });
});

describe('PostgresProxy', () => {
  it('knows which statement an answer is for, also when the next one has been sent before it came', async () => {
    const proxy = await PostgresProxy.start(database.url);
    const answers: HeldAnswer[] = [];
    proxy.judge = (answer) => {
      answers.push(answer);
      return 'pass';
    };
    const options = { connectionString: proxy.url(database.url), pipeline: true };
    const client = new pg.Client(options);
    await client.connect();
    try {
      await Promise.all([
        client.query({ name: 'first', text: 'select pg_sleep(0.1)' }),
        client.query({ name: 'second', text: 'select generate_series(1, $1::int)', values: [3] }),
        client.query('select 1 where false'),
      ]);
    } finally {
      await client.end();
      await proxy.close();
    }
    expect(answers).toEqual([
      { statement: 'first', rows: 1, tag: 'SELECT 1' },
      { statement: 'second', rows: 3, tag: 'SELECT 3' },
      { statement: 'select 1 where false', rows: 0, tag: 'SELECT 0' },
    ]);
    expect(proxy.answered).toEqual(['first', 'second', 'select 1 where false']);
  });
});
