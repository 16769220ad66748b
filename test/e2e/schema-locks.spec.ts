import pg from 'pg';
import type { DataSource } from 'typeorm';
import { beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { futureCallEntities, futureCallMigrations, FutureCallSchemaError } from '../../lib/index.js';
import { FutureCallConnection } from '../../lib/store/future-call.connection.js';
import { answeredWithin } from '../../lib/store/future-call.schema-connection.js';
import { FutureCallSchemaUpgrade } from '../../lib/store/future-call.schema-upgrade.js';
import { futureCallTables } from '../../lib/tables/future-call.tables.js';
import { bootApp, createTables } from '../support/app.js';
import { createDatabase, type TestDatabase } from '../support/database.js';
import { LogLines } from '../support/log-lines.js';
import { PostgresProxy } from '../support/proxy.js';
import { createRole, isSuperuser } from '../support/role.js';
import { connect, readCatalog, schemaDiff, NO_DIFF } from '../support/schema.js';
import { until } from '../support/until.js';

let database: TestDatabase;
beforeEach(async () => {
  database = await createDatabase();
  return () => database.drop();
});

/** Somebody who works on the database by hand. */
async function somebody(application_name: string, url = database.url): Promise<pg.Client & { pid: number }> {
  const client = new pg.Client({ connectionString: url, application_name });
  client.on('error', () => {});
  await client.connect();
  onTestFinished(() => client.end());
  return Object.assign(client, { pid: (client as unknown as { processID: number }).processID });
}

/** Tables that TypeORM alone has made: the storage settings are left to be set at boot. */
async function synchronize(): Promise<void> {
  const dataSource = await connect(database, { entities: [...futureCallEntities] });
  await dataSource.synchronize();
  await dataSource.destroy();
}

const storageSettings = () =>
  database.query(
    `select from pg_class where oid = 'public.future_call'::regclass and reloptions is not null`,
  );

const LIMITS = { lockTimeout: 100, pause: 50, locked: 500, migrating: 700 };

/** An upgrade that does not take its time. */
async function upgrade(url = database.url, limits = LIMITS): Promise<unknown> {
  const dataSource: DataSource = await connect(database, { url, entities: [...futureCallEntities] });
  const connection = await FutureCallConnection.open(dataSource, { applicationName: 'future-call schema' });
  onTestFinished(() => connection.destroy('the test is over'));
  const migrations = futureCallMigrations.map((Migration) => new Migration());
  return new FutureCallSchemaUpgrade(dataSource, futureCallTables(dataSource), migrations, limits)
    .run(connection)
    .then(
      () => undefined,
      (error: unknown) => error,
    );
}

describe('a boot that has to change a table which somebody has locked', () => {
  it('says which and by whom, lets apps of other schemas boot, and goes on when it is free', async () => {
    await synchronize();
    const dba = await somebody('by hand');
    await dba.query('begin; lock table future_call in share update exclusive mode');
    const log = new LogLines();
    const booting = bootApp(database, { options: { execute: false }, logger: log });
    await until(async () => log.warnings.length > 0, 'it says what it waits for');
    const others = await bootApp(database, { options: { execute: false }, typeorm: { schema: 'other' } });
    await others.close();
    expect(await storageSettings()).toEqual([]);

    await dba.query('commit');
    await booting;
    expect(await storageSettings()).toHaveLength(1);
    // Nest has something to say of two apps in one process.
    expect(log.warnings.filter((line) => line.startsWith('The tables'))).toEqual([
      expect.stringMatching(
        new RegExp(
          `^The tables cannot be created or changed yet, and it is tried again: "public"\\."future_call" is locked by pid ${dba.pid} ` +
            `\\(application "by hand", in a transaction since \\d{4}-\\d\\d-\\d\\d \\d\\d:\\d\\d:\\d\\d UTC: begin; lock table future_call .*\\)\\.$`,
        ),
      ),
    ]);
  });

  it('is refused in the end, and told who holds it and how to end that', async () => {
    await synchronize();
    const dba = await somebody('by hand');
    await dba.query('begin; lock table future_call in share update exclusive mode');
    // Long enough for the connection that looks who it is.
    const error = (await upgrade(database.url, { ...LIMITS, locked: 3_000 })) as Error;
    expect(error).toBeInstanceOf(FutureCallSchemaError);
    expect(error.message).toMatch(
      new RegExp(
        `^The tables of future calls could not be created or changed within \\d+ s: "public"\\."future_call" is locked by pid ${dba.pid} \\(.*\\)\\. ` +
          `Boot again when that is over, or end it: select pg_terminate_backend\\(${dba.pid}\\)\\.$`,
      ),
    );
    expect(error.cause).toMatchObject({ code: '55P03' });
    expect(await storageSettings()).toEqual([]);
  });

  it('names the pid and the application to a role that may see no more', async ({ skip }) => {
    skip(!(await isSuperuser(database)), 'needs a superuser');
    await synchronize();
    const role = await createRole(database);
    const names = ['', '_running', '_outcome', '_instance'].map((name) => `future_call${name}`);
    for (const name of names) await database.query(`alter table ${name} owner to "${role.name}"`);
    const dba = await somebody('by hand');
    await dba.query('begin; lock table future_call in share update exclusive mode');
    expect(String(await upgrade(role.url))).toContain(
      `"public"."future_call" is locked by pid ${dba.pid} (application "by hand").`,
    );
  });

  it('names a process that is at it for too long', async () => {
    const other = await somebody('another release');
    await other.query('begin');
    await other.query(
      `select pg_advisory_xact_lock(hashtextextended('nestjs-future-call migrates "public"."future_call"', 0))`,
    );
    expect(String(await upgrade())).toContain(
      `"public"."future_call" is being created or changed by pid ${other.pid} (application "another release"`,
    );
    await other.query('rollback');
    expect(await upgrade()).toBeUndefined();
  });
});

describe('an instance that cannot register because somebody has locked the table', () => {
  it('is refused at boot, and told who holds it and how to end that', async () => {
    await createTables(database);
    const dba = await somebody('by hand');
    await dba.query('begin; lock table future_call_instance in share mode');
    const error: unknown = await bootApp(database, { options: { rescueAfter: 500 } }).catch(
      (thrown: unknown) => thrown,
    );
    expect(error).toBeInstanceOf(FutureCallSchemaError);
    expect((error as Error).message).toMatch(
      new RegExp(
        `^The instance could not register: "public"\\."future_call_instance" is locked by pid ${dba.pid} \\(application "by hand", .*\\)\\. ` +
          `Boot again when that is over, or end it: select pg_terminate_backend\\(${dba.pid}\\)\\.$`,
      ),
    );
    await dba.query('rollback');
    await (await bootApp(database)).close();
  });
});

describe('an older release, with one lock for all tables of a database', () => {
  it('that holds it because of other tables keeps nobody from booting', async () => {
    const older = await somebody('older');
    await older.query('begin');
    await older.query('select pg_advisory_xact_lock(4672063111)');
    await createTables(database);
    expect(await schemaDiff(database)).toEqual(NO_DIFF);
  });

  it('that creates the same tables at the same time is waited for, and found to have done it', async () => {
    const [migration] = futureCallMigrations.map((Migration) => new Migration());
    const dataSource = await connect(database);
    const older = await somebody('older');
    await older.query('begin');
    await older.query('select pg_advisory_xact_lock(4672063111)');
    await older.query(migration!.statements(dataSource).join(';\n'));
    const booting = upgrade(database.url, { ...LIMITS, lockTimeout: 10_000, locked: 60_000 });
    await until(
      async () =>
        (await database.query(`select from pg_locks where not granted and locktype = 'transactionid'`))
          .length > 0,
      'the newer one meets it',
    );
    await older.query('commit');
    expect(await booting).toBeUndefined();
    expect(await schemaDiff(database)).toEqual(NO_DIFF);
    expect(await storageSettings()).toHaveLength(1);
  });

  it('waits for a newer one that works on tables', async () => {
    await synchronize();
    const dba = await somebody('by hand');
    await dba.query('begin; lock table future_call in share update exclusive mode');
    const log = new LogLines();
    const booting = bootApp(database, { options: { execute: false }, logger: log });
    await until(
      async () =>
        !(await database.query<{ got: boolean }>('select pg_try_advisory_xact_lock(4672063111) as got'))[0]!
          .got,
      'it holds the lock of the older one, too',
    );
    await dba.query('commit');
    await booting;
    expect(await readCatalog(database)).not.toBeNull();
  });
});

describe('the connection that looks at the tables', () => {
  it('waits for no answer for ever', async () => {
    const proxy = await PostgresProxy.start(database.url);
    onTestFinished(() => proxy.close());
    const dataSource = await connect(database, { url: proxy.url(database.url) });
    const connection = await FutureCallConnection.open(dataSource, { applicationName: 'future-call schema' });
    onTestFinished(() => connection.destroy('the test is over'));
    proxy.judge = ({ statement }) => (statement === 'select 1' ? 'freeze' : 'pass');
    await expect(
      answeredWithin(100, connection, () => connection.query({ text: 'select 1' })),
    ).rejects.toThrow('did not answer within 0.1 s when it was asked for the tables of future calls');
    proxy.judge = () => 'pass';
    proxy.thaw();
  });
});
