import { Injectable, type OnModuleInit } from '@nestjs/common';
import pg from 'pg';
import { beforeEach, describe, expect, inject, it, onTestFinished } from 'vitest';
import {
  FutureCall,
  FutureCallSchemaError,
  FutureCallService,
  type FutureCallHandler,
} from '../../lib/index.js';
import { migrationLockName } from '../../lib/tables/migrations/future-call.migration.js';
import { bootApp, createTables, type BootOptions } from '../support/app.js';
import { createDatabase, type TestDatabase } from '../support/database.js';
import { LogLines } from '../support/log-lines.js';
import { spawnApp } from '../support/processes.js';
import { PostgresProxy } from '../support/proxy.js';
import { createRole, isSuperuser } from '../support/role.js';
import { NO_DIFF, readCatalog, schemaDiff } from '../support/schema.js';
import { until } from '../support/until.js';

let database: TestDatabase;
beforeEach(async () => {
  database = await createDatabase();
  return () => database.drop();
});

const scheduling = { options: { execute: false } } satisfies BootOptions;

/** Boots and closes an app. What is tested is whether it can. */
async function boot(options: BootOptions = scheduling): Promise<void> {
  await (await bootApp(database, options)).close();
}

/** Keeps everybody from creating or upgrading the tables of a schema until `release` is called. */
async function holdMigrationLock(schema = 'public'): Promise<{ release(): Promise<void> }> {
  const client = new pg.Client(database.url);
  await client.connect();
  let released: Promise<void> | undefined;
  const release = () => (released ??= client.end());
  onTestFinished(release);
  await client.query('select pg_advisory_lock(hashtextextended($1, 0))', [
    migrationLockName(`"${schema}"."future_call"`),
  ]);
  return { release };
}

/** Pids of backends that wait for it, once they are so many. */
const waitingForLock = (count: number) =>
  until(async () => {
    const waiting = await database.query<{ pid: number }>(
      `select pid from pg_locks where locktype = 'advisory' and not granted
          and database = (select oid from pg_database where datname = current_database())`,
    );
    return waiting.length === count ? waiting.map(({ pid }) => pid) : undefined;
  }, `${count} processes wait to create the tables`);

describe('a boot', () => {
  it('creates the tables, in ten processes at once', async () => {
    const lock = await holdMigrationLock('calls');
    const env = { DATABASE_URL: database.url, SCHEMA: 'calls' };
    const apps = Array.from({ length: 10 }, () => spawnApp('schema-app', { env }));
    await waitingForLock(10);
    await lock.release();
    expect(await Promise.all(apps.map(({ exited }) => exited))).toEqual(
      apps.map(() => ({ code: 0, signal: null })),
    );
    const calls = await database.query<{ pid: number }>('select data::int as pid from calls.future_call');
    expect(new Set(calls.map(({ pid }) => pid))).toEqual(new Set(apps.map(({ pid }) => pid)));
    const creators = apps.filter(({ output }) => output.includes('Created "calls"."future_call"'));
    expect(creators).toHaveLength(1);
  });

  it('creates them whatever the isolation, the search path and the timeouts of the role', async ({
    skip,
  }) => {
    skip(!(await isSuperuser(database)), 'needs a superuser');
    const settings: Record<string, string> = {
      default_transaction_isolation: 'serializable',
      search_path: 'pg_temp',
      statement_timeout: '10s',
      lock_timeout: '10s',
      idle_in_transaction_session_timeout: '0',
    };
    await database.query(`
      create table seen (setting text, value text);
      create function record_settings() returns event_trigger language plpgsql as $$
        begin
          insert into public.seen select name, setting from pg_settings
            where name in ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout');
        end $$;
      create event trigger record_settings on ddl_command_end when tag in ('CREATE TABLE')
        execute function record_settings()`);
    for (const [name, value] of Object.entries(settings)) {
      await database.query(`alter database "${database.name}" set ${name} = '${value}'`);
    }
    const lock = await holdMigrationLock();
    const typeorm = { schema: 'public' };
    const both = Promise.all([boot({ ...scheduling, typeorm }), boot({ ...scheduling, typeorm })]);
    await waitingForLock(2);
    await lock.release();
    await both;
    // None of a migration's statements is cut short, but one that is frozen lets the others boot some day, and one
    // that waits for a lock lets them pass.
    expect(await database.query('select distinct setting, value from public.seen order by 1')).toEqual([
      { setting: 'idle_in_transaction_session_timeout', value: '60000' },
      { setting: 'lock_timeout', value: '2000' },
      { setting: 'statement_timeout', value: '0' },
    ]);
  });

  it('does nothing but read when the tables are there, and waits for nobody', async () => {
    await createTables(database);
    const before = await readCatalog(database);
    await database.query(`alter database "${database.name}" set default_transaction_read_only = on`);
    const lock = await holdMigrationLock();
    const log = new LogLines();
    for (const migrate of [true, false]) {
      await boot({ options: { migrate, execute: false }, logger: log });
    }
    await lock.release();
    expect(log.warnings).toEqual([]);
    expect(log.lines.filter((line) => /Created|Upgraded/.test(line))).toEqual([]);
    expect(await readCatalog(database)).toEqual(before);
  });

  it('says that it has created them, and where', async () => {
    const log = new LogLines();
    await boot({ ...scheduling, logger: log });
    expect(log.lines).toContain('Created "public"."future_call" and its tables.');
  });

  it('leaves no connection behind, also when it fails', async () => {
    const connections = () =>
      database.query(`select state from pg_stat_activity
        where datname = current_database() and application_name = 'future-call schema'`);
    const { close } = await bootApp(database, scheduling);
    await until(async () => (await connections()).length === 0, 'the connection is closed');
    await close();
    await database.query('drop table future_call_instance');
    await expect(boot()).rejects.toThrow(FutureCallSchemaError);
    await until(async () => (await connections()).length === 0, 'the connection is closed');
  });
});

describe('a boot that finds no database', () => {
  it('is tried again as often as TypeORM is told to, and then works', async () => {
    const proxy = await PostgresProxy.start(database.url);
    onTestFinished(() => proxy.close());
    proxy.refuses = true;
    const ran = new Promise((resolve) => {
      @FutureCall('greet')
      class Greet implements FutureCallHandler {
        invoke(data: unknown) {
          resolve(data);
        }
      }
      void bootApp(database, {
        providers: [Greet],
        typeorm: { url: proxy.url(database.url), retryAttempts: 1_000, retryDelay: 10 },
      }).then(({ service }) => service.callWithDelay(Greet, 'you', 0), resolve);
    });
    await until(async () => proxy.accepted > 2, 'it has tried some times');
    proxy.refuses = false;
    expect(await ran).toBe('you');
  });

  it('fails with the error of the connection, when TypeORM has tried as often as it is told to', async () => {
    const proxy = await PostgresProxy.start(database.url);
    onTestFinished(() => proxy.close());
    proxy.refuses = true;
    const typeorm = { url: proxy.url(database.url), retryAttempts: 3, retryDelay: 10 };
    await expect(boot({ ...scheduling, typeorm })).rejects.toThrow(/Connection terminated|ECONNRESET/);
    expect(proxy.accepted).toBe(3);
  });

  /** An app that schedules while it boots, and tries again when told. */
  function scheduleTwice(between: () => Promise<void>) {
    const errors: unknown[] = [];

    @Injectable()
    class Early implements OnModuleInit {
      constructor(private readonly futureCalls: FutureCallService) {}

      async onModuleInit() {
        await this.futureCalls
          .callWithDelay('later', null, '1h')
          .catch((error: unknown) => errors.push(error));
        await between();
        await this.futureCalls.callWithDelay('later', null, '1h');
      }
    }
    return { Early, errors };
  }

  it('says so to whoever needs the tables, and tries anew for the next one', async () => {
    const admin = new pg.Client(inject('serverUrl'));
    await admin.connect();
    onTestFinished(() => admin.end());
    const allow = (allowed: boolean) =>
      admin.query(`alter database "${database.name}" with allow_connections ${allowed}`);

    const { Early, errors } = scheduleTwice(() => allow(true).then(() => {}));
    // The data source is connected, its pool can be used; what fails is the connection that looks at the tables.
    @Injectable()
    class Away implements OnModuleInit {
      async onModuleInit() {
        await allow(false);
      }
    }
    await boot({ ...scheduling, providers: [Away, Early] });
    expect(errors).toEqual([expect.objectContaining({ code: '55000' })]);
    expect(await database.query('select name from future_call')).toEqual([{ name: 'later' }]);
    expect(await schemaDiff(database)).toEqual(NO_DIFF);
  });

  it('passes the error of a connection that broke, and tries anew for the next one', async () => {
    const lock = await holdMigrationLock();
    const { Early, errors } = scheduleTwice(() => lock.release());
    const booting = boot({ ...scheduling, providers: [Early] });
    const [pid] = await waitingForLock(1);
    await database.query('select pg_terminate_backend($1)', [pid]);
    await booting;
    expect(errors).toEqual([expect.objectContaining({ code: '57P01' })]);
    expect(await database.query('select name from future_call')).toEqual([{ name: 'later' }]);
  });
});

describe('is refused', () => {
  const refused = async (message: RegExp) => {
    const before = await readCatalog(database);
    for (const migrate of [true, false]) {
      const error: unknown = await boot({ options: { migrate } }).catch((thrown: unknown) => thrown);
      expect(error).toBeInstanceOf(FutureCallSchemaError);
      expect((error as Error).message).toMatch(message);
    }
    expect(await readCatalog(database)).toEqual(before);
  };

  it.each([
    ['a table', 'create table future_call (id int)'],
    ['a view', 'create view future_call as select 1 as id'],
    ['a sequence', 'create sequence future_call'],
    ['an index', 'create table other (id int); create index future_call on other (id)'],
    [
      'a table with a comment',
      `create table future_call (id int); comment on table future_call is 'my schema 1, readable since 1'`,
    ],
  ])('%s that is not ours', async (_what, sql) => {
    await database.query(sql);
    await refused(
      /There is a "public"\."future_call", but it is not a table of nestjs-future-call: .* lacks the comment.*Rename .* another schema or entityPrefix/,
    );
  });

  it('a table of the same name as one beside ours', async () => {
    await database.query('create table future_call_outcome (id int)');
    await refused(
      /There is a "public"\."future_call_outcome", .*: "public"\."future_call" does not exist\. Rename/,
    );
  });

  it('tables of ours of which some are missing', async () => {
    await createTables(database);
    await database.query('drop table future_call_running, future_call_instance');
    await refused(
      /"public"\."future_call_running", "public"\."future_call_instance" are missing\. Restore .* or drop/,
    );
  });

  it('tables from a dump without comments, until they have it back', async () => {
    await createTables(database);
    const [{ comment }] = (await database.query<{ comment: string }>(
      `select obj_description('future_call'::regclass, 'pg_class') as comment`,
    )) as [{ comment: string }];
    await database.query('comment on table future_call is null');
    await refused(/If it came from a dump without comments, put the comment back/);
    await database.query(`comment on table future_call is '${comment}'`);
    await boot();
  });
});

describe('the server', () => {
  /** A server that says something else than it is: what stands first in the search path is asked first. */
  async function disguise(name: string, answer: string) {
    await database.query(`
      create schema disguise;
      create function disguise.${name} returns text language sql as $$ select '${answer}' $$;
      alter database "${database.name}" set search_path = disguise, pg_catalog, public`);
  }

  const inPublic = { ...scheduling, typeorm: { schema: 'public' } };

  it('must be PostgreSQL 14 or newer', async () => {
    await disguise('current_setting(text)', '130020');
    await expect(boot(inPublic)).rejects.toThrow(
      /need PostgreSQL 14 or newer, but the server is PostgreSQL \d/,
    );
  });

  it('may be PostgreSQL 14', async () => {
    await disguise('current_setting(text)', '140000');
    await boot(inPublic);
    expect(await readCatalog(database)).not.toBeNull();
  });

  it('must not be CockroachDB, which speaks its language', async () => {
    await disguise('version()', 'CockroachDB CCL v24.1.0');
    await expect(boot(inPublic)).rejects.toThrow(/CockroachDB does not have/);
  });
});

describe('a role without the right to create tables', () => {
  it('is refused with the cure, and works once somebody else has made them', async ({ skip }) => {
    skip(!(await isSuperuser(database)), 'needs a superuser');
    const role = await createRole(database);
    await database.query('revoke create on schema public from public');
    const asRole = { ...scheduling, typeorm: { url: role.url } };
    const error = (await boot(asRole).catch((thrown: unknown) => thrown)) as Error;
    expect(error).toBeInstanceOf(FutureCallSchemaError);
    expect(error.message).toMatch(
      /may not create or change .* schema "public": .*permission denied.* run futureCallMigrations .* migrate: false/,
    );
    expect(error.cause).toMatchObject({ code: '42501' });
    await createTables(database);
    await boot(asRole);
  });
});
