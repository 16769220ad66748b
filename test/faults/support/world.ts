import { Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { TypeOrmModule } from '@nestjs/typeorm';
import pg from 'pg';
import { DataSource, type QueryRunner } from 'typeorm';
import { inject } from 'vitest';
import {
  FutureCallModule,
  FutureCallService,
  type FutureCallHandlerOptions,
  type FutureCallModuleOptions,
  type ScheduleOptions,
} from '../../../lib/index.js';
import type { Act } from '../../support/apps/fault-app.js';
import { createDatabase, type TestDatabase } from '../../support/database.js';
import { spawnApp, type AppProcess } from '../../support/processes.js';
import { PostgresProxy } from '../../support/proxy.js';
import { PATIENCE, until } from '../../support/until.js';
import { LEDGER } from './ledger.js';

/** Milliseconds. The shortest that the option takes: what waits for it waits often. */
export const RESCUE_AFTER = 500;

/** For an instance that takes nobody for dead who only is away, and gives up no lock that it waits for, however slow the machine is. */
export const PATIENT = { rescueAfter: 15_000 };

/** Starting is all work and no waiting: many at once only make each other late. */
const AT_ONCE = 3;
const starting = Array.from({ length: AT_ONCE }, () => Promise.resolve());
let next = 0;

function inTurn<T>(start: () => Promise<T>): Promise<T> {
  const place = next++ % AT_ONCE;
  const started = starting[place]!.then(start);
  starting[place] = started.then(
    () => {},
    () => {},
  );
  return started;
}

/** Handlers of an app, unless a test asks for others. A call of the second one may be started five times. */
const HANDLERS = { call: {}, again: { attempts: 5, backoff: { type: 'fixed', delay: 100 } } } as const;

export interface StartOptions {
  /** The session goes through this proxy; with `all` everything does. */
  proxy?: PostgresProxy;
  all?: PostgresProxy;
  options?: FutureCallModuleOptions;
  handlers?: Record<string, FutureCallHandlerOptions>;
  typeorm?: object;
  env?: Record<string, string>;
  /** Another URL than the database's own. */
  url?: string;
  /** A command that Node is run within. */
  within?: string[];
}

export interface Ended {
  id: string;
  outcome: string;
  attempt: number;
  pid: number | null;
  errors: { name: string; message: string }[] | null;
  finishedAt: number;
}

/** A database, processes that run calls in it, and one that only schedules them: this one. */
export class World {
  readonly #cleanups: (() => unknown)[] = [];
  readonly #apps: AppProcess[] = [];

  private constructor(
    readonly database: TestDatabase,
    readonly service: FutureCallService,
    readonly dataSource: DataSource,
  ) {}

  static async create(server: string = inject('serverUrl')): Promise<World> {
    const database = await createDatabase({ server });
    try {
      await database.query(LEDGER);
      @Module({
        imports: [
          TypeOrmModule.forRoot({
            type: 'postgres',
            url: database.url,
            autoLoadEntities: true,
            retryAttempts: 0,
            applicationName: 'scheduler',
          }),
          FutureCallModule.forRoot({ execute: false, retention: { cancelled: true } }),
        ],
      })
      class Scheduler {}
      const app = await NestFactory.createApplicationContext(Scheduler, {
        logger: false,
        abortOnError: false,
      });
      const world = new World(database, app.get(FutureCallService), app.get(DataSource));
      world.#cleanups.push(
        () => app.close(),
        () => database.drop(),
      );
      return world;
    } catch (error) {
      await database.drop();
      throw error;
    }
  }

  /** To be done when the test ends, whatever becomes of it; the last one first. */
  onEnd(cleanup: () => unknown): void {
    this.#cleanups.unshift(cleanup);
  }

  async end(): Promise<void> {
    const errors: unknown[] = [];
    for (const cleanup of this.#cleanups.splice(0)) {
      try {
        await cleanup();
      } catch (error) {
        errors.push(error);
      }
    }
    if (errors.length > 0) throw errors[0];
  }

  /** A process that runs calls. Every outcome is kept: where a call is can then be told at any time. */
  start({
    proxy,
    all,
    options,
    handlers = HANDLERS,
    typeorm = {},
    env,
    url,
    within,
  }: StartOptions = {}): AppProcess {
    const own = url ?? this.database.url;
    const app = spawnApp('fault-app', {
      ...(within !== undefined && { within }),
      env: {
        DATABASE_URL: all === undefined ? own : all.url(own),
        FUTURE_CALL_OPTIONS: JSON.stringify({
          rescueAfter: RESCUE_AFTER,
          pollInterval: 1_000,
          retention: { completed: true, cancelled: true },
          ...(proxy !== undefined && { sessionUrl: proxy.url(own) }),
          ...options,
        }),
        TYPEORM_OPTIONS: JSON.stringify(typeorm),
        HANDLERS: JSON.stringify(handlers),
        ...env,
      },
    });
    this.#apps.push(app);
    this.onEnd(() => app.kill());
    return app;
  }

  /** As `start`, and waits until it runs calls. */
  run(options?: StartOptions): Promise<AppProcess> {
    return inTurn(async () => {
      const app = this.start(options);
      await app.waitFor('ready');
      return app;
    });
  }

  async proxy(url = this.database.url): Promise<PostgresProxy> {
    const proxy = await PostgresProxy.start(url);
    this.onEnd(() => proxy.close());
    return proxy;
  }

  /** A connection of the test's own. */
  async connect(): Promise<pg.Client> {
    const client = new pg.Client({ connectionString: this.database.url, application_name: 'test' });
    client.on('error', () => {});
    await client.connect();
    this.onEnd(() => client.end());
    return client;
  }

  /** A transaction of whoever schedules. */
  async transaction(): Promise<QueryRunner> {
    const runner = this.dataSource.createQueryRunner();
    this.onEnd(() => runner.release());
    await runner.startTransaction();
    return runner;
  }

  async schedule(
    handler: string,
    act: Act | null = null,
    delay = 0,
    options: ScheduleOptions = {},
  ): Promise<string> {
    const { id } = await this.service.callWithDelay(handler, act, delay, options);
    await this.accept([id]);
    return id;
  }

  async scheduleMany(count: number, handler: string, act: Act | null = null, delay = 0): Promise<string[]> {
    return this.scheduleAll(
      handler,
      Array.from({ length: count }, () => act),
      delay,
    );
  }

  /** A call for each act, which one handler gets in this order. */
  async scheduleAll(handler: string, acts: readonly (Act | null)[], delay = 0): Promise<string[]> {
    const calls = await this.service.callMany(acts.map((data) => ({ handler, data, delay })));
    const ids = calls.map(({ id }) => id);
    await this.accept(ids);
    return ids;
  }

  /** These calls exist, and what becomes of them is looked at in the end. */
  async accept(ids: readonly string[]): Promise<void> {
    await this.database.query('insert into accepted select * from unnest($1::bigint[])', [ids]);
  }

  /** The calls among these that have an outcome, in the order of their ids. */
  async ended(ids: readonly string[]): Promise<Ended[]> {
    return this.database.query<Ended & pg.QueryResultRow>(
      `select call_id as id, outcome, attempt, pid, errors, extract(epoch from finished_at)::float8 * 1000 as "finishedAt"
       from future_call_outcome where call_id = any ($1::bigint[]) order by call_id`,
      [ids],
    );
  }

  /** Waits until all these calls have an outcome. */
  async untilEnded(ids: readonly string[], timeout = PATIENCE): Promise<Ended[]> {
    let last: Ended[] = [];
    return until(
      async () => {
        // The test may have stopped the server.
        last = await this.ended(ids).catch(() => last);
        return last.length === ids.length && last;
      },
      `all ${ids.length} calls have an outcome`,
      timeout,
    ).catch(async (error: unknown) => {
      console.log(
        await this.database.query(
          'select pid, application_name, state, wait_event_type, wait_event, left(query, 100) as query, now() - state_change as since, pg_blocking_pids(pid) as blocked from pg_stat_activity where datname = current_database()',
        ),
      );
      const missing = ids.filter((id) => !last.some((ended) => ended.id === id)).slice(0, 20);
      const where = await this.describe();
      throw new Error(`These have none: ${missing.join(', ')}\n${where}`, { cause: error });
    });
  }

  /** The id of a process's instance; the one that it registered last. */
  async instanceOf(app: AppProcess): Promise<number> {
    return until(async () => {
      const [row] = await this.database.query<{ id: number }>(
        'select id from future_call_instance where pid = $1 order by id desc limit 1',
        [app.pid],
      );
      return row?.id;
    }, `process ${app.pid} is registered`);
  }

  /** The pid of the backend that serves the session of this instance; undefined when it has none. */
  async backendOf(instance: number): Promise<number | undefined> {
    const [row] = await this.database.query<{ pid: number }>(
      `select pid from pg_stat_activity where application_name ~ $1 and datname = current_database()`,
      [`^future-call instance ${instance}( |$)`],
    );
    return row?.pid;
  }

  /** Until the session of an instance has been in this state for so long, without a break. */
  async outlast(instance: number, state: string, duration: string): Promise<void> {
    await until(async () => {
      const pid = await this.backendOf(instance);
      return (
        pid !== undefined &&
        (await this.count(
          `from pg_stat_activity where pid = ${pid} and state = '${state}'
           and state_change < clock_timestamp() - interval '${duration}'`,
        )) > 0
      );
    }, `the session of instance ${instance} is ${state} for ${duration}`);
  }

  /** Ends the session of an instance, as an administrator does. */
  async terminateSession(instance: number): Promise<void> {
    const pid = await until(() => this.backendOf(instance), `instance ${instance} has a session`);
    await this.database.query('select pg_terminate_backend($1)', [pid]);
    await until(async () => (await this.backendOf(instance)) !== pid, `backend ${pid} has ended`);
  }

  async now(): Promise<number> {
    const [row] = await this.database.query<{ now: number }>(
      'select extract(epoch from clock_timestamp())::float8 * 1000 as now',
    );
    return row!.now;
  }

  /**
   * Stops what an instance does at an exact point: just before a claim, or the end of an attempt, is committed.
   * `reached` waits until it is there.
   */
  async barrier(
    at: 'claim' | 'end',
    instance: number,
  ): Promise<{ reached(): Promise<void>; open(): Promise<void> }> {
    const holder = await this.connect();
    const [event, row] = at === 'claim' ? ['insert', 'new'] : ['delete', 'old'];
    const key = instance * 2 + (at === 'claim' ? 0 : 1);
    await holder.query(`select pg_advisory_lock(${key})`);
    await this.database.query(`
      create or replace function barrier() returns trigger language plpgsql as $$
        begin
          perform pg_advisory_xact_lock_shared(tg_argv[0]::bigint);
          return coalesce(new, old);
        end $$;
      create trigger "barrier ${key}" before ${event} on future_call_running for each row
        when (${row}.instance_id = ${instance}) execute function barrier('${key}')`);
    return {
      reached: async () => {
        const waits = `select from pg_locks where locktype = 'advisory' and objid = ${key} and objsubid = 1 and not granted
          and database = (select oid from pg_database where datname = current_database())`;
        await until(
          async () => (await this.database.query(waits)).length > 0,
          `instance ${instance} is about to commit (${at})`,
        );
      },
      open: async () => {
        await holder.query(`select pg_advisory_unlock(${key})`);
      },
    };
  }

  /** How often each has happened, for the end of a test. */
  async count(sql: string): Promise<number> {
    const [row] = await this.database.query<{ n: string }>(`select count(*) as n ${sql}`);
    return Number(row!.n);
  }

  /** Where the calls are, and what the apps said last: for the message of a failure. */
  async describe(): Promise<string> {
    const where = await this.database.query(
      `select 'pending' as place, id, name, attempt, null as instance_id, due_at from future_call union all
       select 'running', id, name, attempt, instance_id, due_at from future_call_running union all
       select 'instance', id, host, pid, id, started_at from future_call_instance order by 1, 2 limit 30`,
    );
    const outputs = this.#apps.map(
      ({ pid, output }) => `${pid}: ${output.split('\n').slice(8).join('\n').slice(-1_500)}`,
    );
    return [...where.map((row) => JSON.stringify(row)), ...outputs].join('\n');
  }
}
