import { execFileSync, spawnSync } from 'node:child_process';
import * as fs from 'node:fs';
import path from 'node:path';
import pg from 'pg';
import type { TypeOrmModuleOptions } from '@nestjs/typeorm';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { temporaryPostgres, type TemporaryPostgres } from '../../scripts/embedded-postgres.mjs';
import { FutureCallSessionError } from '../../lib/index.js';
import { FutureCallConnection } from '../../lib/store/future-call.connection.js';
import { FutureCallSameDatabase } from '../../lib/store/future-call.same-database.js';
import { bootApp, createTables } from '../support/app.js';
import { createDatabase, type TestDatabase } from '../support/database.js';
import { engineOf } from '../support/engine.js';
import { LogLines } from '../support/log-lines.js';
import { PostgresProxy } from '../support/proxy.js';
import { until } from '../support/until.js';

/** The question by which two lines are told to lead to one database. */
const WHICH = /pg_postmaster_start_time/;

let server: TemporaryPostgres;
let database: TestDatabase;
beforeAll(async () => {
  [server, database] = await Promise.all([
    temporaryPostgres({ listen: true, settings: { fsync: 'off' } }),
    createDatabase(),
  ]);
  await createTables(database);
});
afterAll(async () => {
  await database.drop();
  await server.stop();
});

describe.skipIf(spawnSync('openssl', ['version']).status !== 0)(
  'a sessionUrl to a server with TLS (openssl)',
  () => {
    let secured: TestDatabase;
    let typeorm: Partial<TypeOrmModuleOptions>;
    /** The certificate of the server, which nobody else has signed. */
    let ca: string;

    beforeAll(async () => {
      const [key, cert] = ['server.key', 'server.crt'].map((file) => path.join(server.dataDir, file)) as [
        string,
        string,
      ];
      const names = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=IP:127.0.0.1'];
      execFileSync(
        'openssl',
        [
          'req',
          '-x509',
          '-newkey',
          'rsa:2048',
          '-nodes',
          '-days',
          '2',
          '-keyout',
          key,
          '-out',
          cert,
          ...names,
        ],
        { stdio: 'pipe' },
      );
      const { uid, gid } = fs.statSync(server.dataDir);
      for (const file of [key, cert]) fs.chownSync(file, uid, gid);
      fs.chmodSync(key, 0o600);
      ca = fs.readFileSync(cert, 'utf8');
      const rules = path.join(server.dataDir, 'pg_hba.conf');
      const strict = 'hostssl all app 127.0.0.1/32 scram-sha-256\nhost all app 127.0.0.1/32 reject\n';
      fs.writeFileSync(rules, strict + fs.readFileSync(rules, 'utf8'));
      secured = await createDatabase({ server: server.url });
      await secured.query(`create role app superuser login password 'secret'`);
      await secured.query('alter system set ssl = on');
      await secured.query('select pg_reload_conf()');
      typeorm = {
        url: undefined as never,
        host: '127.0.0.1',
        port: server.port,
        username: 'app',
        // As one that asks a cloud for a token.
        password: async () => 'secret',
        database: secured.name,
        ssl: { ca },
      };
      await until(async () => {
        const [row] = await secured.query<{ ssl: string }>('show ssl');
        return row!.ssl === 'on';
      }, 'the server has TLS');
    });
    afterAll(() => secured.drop());

    const boot = (url: string) =>
      bootApp(secured, { typeorm, options: { sessionUrl: url.replace('HOST', `127.0.0.1:${server.port}`) } });

    it.each([
      'postgres://HOST',
      'postgres://app@HOST/DATABASE',
      'postgres://app@HOST/DATABASE?sslmode=require',
      'postgres://HOST/DATABASE?sslmode=verify-full',
      'postgres://app:secret@HOST/DATABASE?ssl=true',
    ])('%s has the TLS and the password of the data source where it states none', async (url) => {
      const { app } = await boot(url.replace('DATABASE', secured.name));
      const { backendPid } = engineOf(app).session;
      expect(
        await secured.query(
          'select ssl, usename from pg_stat_ssl join pg_stat_activity using (pid) where pid = $1',
          [backendPid],
        ),
      ).toEqual([{ ssl: true, usename: 'app' }]);
    });

    it('is what it states all the same: no TLS, and another password', async () => {
      const plain = boot(`postgres://app@HOST/${secured.name}?sslmode=disable`);
      await expect(plain).rejects.toMatchObject({ code: '28000' });
      const wrong = boot(`postgres://app:wrong@HOST/${secured.name}`);
      await expect(wrong).rejects.toMatchObject({ code: '28P01' });
    });
  },
);

describe('a sessionUrl to another database', () => {
  it('is refused at boot, though that is a copy with the same tables: both are named, and no password', async () => {
    const copy = await createDatabase({ template: database.name });
    onTestFinished(() => copy.drop());
    const url = new URL(copy.url);
    url.password = 'secret';
    const refused = bootApp(database, { options: { sessionUrl: url.href } });
    const error = await refused.then(
      () => undefined,
      (thrown: unknown) => thrown as Error,
    );
    expect(error).toBeInstanceOf(FutureCallSessionError);
    expect(error!.message).toMatch(
      new RegExp(
        `^sessionUrl leads to another database \\("${copy.name}" at .*\\) than the data source \\("${database.name}" at .*\\): .*Let sessionUrl lead to`,
      ),
    );
    expect(error!.message).not.toContain('secret');
    expect(await copy.query('select from future_call_instance')).toEqual([]);
  });

  it('is told from a server that restarts between the two questions: it is asked again', async () => {
    const proxy = await PostgresProxy.start(database.url);
    onTestFinished(() => proxy.close());
    const questions: string[] = [];
    proxy.judge = ({ statement }) => {
      if (!WHICH.test(statement)) return 'pass';
      questions.push(statement);
      return questions.length === 1 ? 'cut' : 'pass';
    };
    const { app } = await bootApp(database, { options: { sessionUrl: proxy.url(database.url) } });
    expect(questions).toHaveLength(2);
    expect(engineOf(app).session.isOpen).toBe(true);
  });

  it('is not waited for without an end: a pool that lets us in and never answers is named, and asked again', async () => {
    const proxy = await PostgresProxy.start(database.url);
    onTestFinished(() => proxy.close());
    const questions: string[] = [];
    proxy.judge = ({ statement }) => {
      if (!WHICH.test(statement)) return 'pass';
      questions.push(statement);
      return questions.length === 1 ? 'freeze' : 'pass';
    };
    const stopped = new AbortController();
    const { dataSource } = await bootApp(database, {
      typeorm: { url: proxy.url(database.url) },
      options: { execute: false },
    });
    const session = await FutureCallConnection.open(dataSource, {
      url: database.url,
      applicationName: 'test',
    });
    onTestFinished(() => session.close());
    const same = new FutureCallSameDatabase(dataSource, database.url);
    const asked = until(async () => questions.length === 1, 'it is asked').then(() => stopped.abort());
    await expect(same.prove(session, stopped.signal)).rejects.toThrow(
      /^The data source did not say in time which database it leads to/,
    );
    await asked;
    expect(same.isUnproven).toBe(true);
    await same.prove(session, new AbortController().signal);
    expect(same.isUnproven).toBe(false);
  });

  it('is noticed by a reconnect too, as when its name leads elsewhere meanwhile, and waited for', async () => {
    // Of the same name, on another server.
    const admin = new pg.Client(server.url);
    await admin.connect();
    await admin.query(`create database "${database.name}"`);
    onTestFinished(async () => {
      await admin.query(`drop database "${database.name}" with (force)`);
      await admin.end();
    });
    const proxy = await PostgresProxy.start(database.url);
    onTestFinished(() => proxy.close());
    const logger = new LogLines();
    const { service } = await bootApp(database, { options: { sessionUrl: proxy.url(database.url) }, logger });
    const connected: number[] = [];
    service.events.subscribe((event) => {
      if (event.type === 'connected') connected.push(event.instanceId);
    });
    proxy.leadTo(server.url);
    proxy.cut();
    await until(
      async () =>
        logger.warnings.some((line) =>
          /^Reconnecting fails.*sessionUrl leads to another database/.test(line),
        ),
      'it says so',
    );
    proxy.leadTo(database.url);
    await until(async () => connected.length === 1, 'it is back');
    expect(logger.lines.at(-1)).toBe(`Instance ${connected[0]} has its session back.`);
  });
});
