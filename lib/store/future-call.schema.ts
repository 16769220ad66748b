import { Inject, Injectable, Logger } from '@nestjs/common';
import type { DataSource } from 'typeorm';
import { FutureCallSchemaError } from '../contract/future-call.errors.js';
import {
  FUTURE_CALL_DATA_SOURCE,
  FUTURE_CALL_OPTIONS,
  type ResolvedOptions,
} from '../module/future-call.options.js';
import { futureCallTables, type FutureCallTables } from '../tables/future-call.tables.js';
import { futureCallMigrations } from '../tables/migrations/future-call.migrations.js';
import {
  findSchema,
  type FoundSchema,
  type RunStatement,
} from '../tables/migrations/future-call.schema-version.js';
import type { FutureCallConnection } from './future-call.connection.js';
import { checkDataSource, checkServer } from './future-call.data-source-check.js';
import { refuseRowSecurity } from './future-call.row-security.js';
import { answeredWithin, onSchemaConnection, runnerOf } from './future-call.schema-connection.js';
import { FutureCallSchemaUpgrade } from './future-call.schema-upgrade.js';

const MIGRATIONS = futureCallMigrations.map((Migration) => new Migration());
/** The version that this release is made for. */
const VERSION = MIGRATIONS.at(-1)!.version;

/** How long the look at the tables may take, in milliseconds. It reads catalogs, and waits for no table. */
const LOOK_WITHIN = 10_000;

/**
 * Sees to it that the tables are there, once per process, started by whoever needs them first: Nest awaits every
 * `onModuleInit` before any `onApplicationBootstrap`, so an app that schedules in `onModuleInit` would wait for ever
 * for tables that are made later.
 */
@Injectable()
export class FutureCallSchema {
  private readonly logger = new Logger('FutureCall');
  private prepared?: Promise<FutureCallTables>;

  constructor(
    @Inject(FUTURE_CALL_DATA_SOURCE) private readonly dataSource: DataSource,
    @Inject(FUTURE_CALL_OPTIONS) private readonly options: ResolvedOptions,
  ) {}

  /** The tables' names, once the tables exist. Throws `FutureCallSchemaError`; the next caller tries anew. */
  ready(): Promise<FutureCallTables> {
    this.prepared ??= this.prepare().catch((error: unknown) => {
      this.prepared = undefined;
      throw error;
    });
    return this.prepared;
  }

  private async prepare(): Promise<FutureCallTables> {
    checkDataSource(this.dataSource);
    const tables = futureCallTables(this.dataSource);
    await onSchemaConnection(this.dataSource, async (connection) => {
      const run = runnerOf((statement, values) => connection.query(statement, values));
      const found = await answeredWithin(LOOK_WITHIN, connection, async () => {
        await checkServer(run);
        await this.lookForPooler(connection, run);
        return findSchema(run, tables);
      });
      if (this.isBehind(found)) await this.upgrade(connection, tables);
      else this.checkVersion(found, tables);
      await answeredWithin(LOOK_WITHIN, connection, () => refuseRowSecurity(connection, tables));
    });
    return tables;
  }

  /**
   * Where scheduling with prepared statements goes through a pooler. One that pools transactions gives each to any backend,
   * which may not have been told of the statement. What is seen here says nothing of how the pooler pools.
   */
  private async lookForPooler({ announcedPid }: FutureCallConnection, run: RunStatement): Promise<void> {
    const { preparedStatements, execute, sessionUrl } = this.options;
    // An instance whose own line leads there is refused, which says it too.
    if (!preparedStatements || (execute === true && sessionUrl === undefined)) return;
    const pid = Number(await run('select pg_backend_pid()'));
    if (pid === announcedPid) return;
    this.logger.warn(
      `The data source leads through a pooler such as PgBouncer (backend ${pid} answered, ${announcedPid} was announced), and preparedStatements is on. ` +
        `Set preparedStatements: false, unless it pools sessions, or knows prepared statements and may keep them: ` +
        `scheduling fails now and then otherwise, because a statement does not exist.`,
    );
  }

  /** Whether something is left to do, by us. */
  private isBehind({ version, storageIsSet }: FoundSchema): boolean {
    // Who lets TypeORM change tables lets us: it made them, but cannot state the storage settings.
    const mayChange = this.options.migrate || this.dataSource.options.synchronize === true;
    return mayChange && (version < VERSION || (version === VERSION && !storageIsSet));
  }

  private checkVersion({ version, readableSince, missing }: FoundSchema, tables: FutureCallTables): void {
    if (missing.includes(tables.pending)) {
      throw new FutureCallSchemaError(
        `The tables of future calls are missing (${tables.pending.path}), and migrate is false. ` +
          `Add ...futureCallMigrations to the data source's migrations and run them, or leave migrate at true.`,
      );
    }
    if (version < VERSION) {
      throw new FutureCallSchemaError(
        `The tables of future calls are of version ${version}, this release needs ${VERSION}, and migrate is false. ` +
          `Run the migrations in futureCallMigrations.`,
      );
    }
    if (readableSince > VERSION) {
      throw new FutureCallSchemaError(
        `The tables of future calls are of version ${version}, which only releases that know version ${readableSince} can use; ` +
          `this one knows ${VERSION}. Upgrade nestjs-future-call in this process.`,
      );
    }
    if (missing.length > 0) {
      throw new FutureCallSchemaError(
        `${tables.pending.path} is there, but of its tables ${missing.map(({ path }) => path).join(', ')} are missing. ` +
          `Restore them from a backup, or drop ${tables.pending.path} and what is left, with the calls in them, and boot again.`,
      );
    }
    if (version > VERSION) {
      this.logger.warn(
        `The tables are of version ${version}, this release knows ${VERSION}. It works, as in a rolling deploy; upgrade this process too.`,
      );
    }
  }

  private async upgrade(connection: FutureCallConnection, tables: FutureCallTables): Promise<void> {
    const before = await new FutureCallSchemaUpgrade(this.dataSource, tables, MIGRATIONS).run(connection);
    // Another process may have been first.
    if (!this.isBehind(before)) this.checkVersion(before, tables);
    else if (before.version === 0) this.logger.log(`Created ${tables.pending.path} and its tables.`);
    else if (before.version < VERSION) {
      this.logger.log(`Upgraded the tables from version ${before.version} to ${VERSION}.`);
    }
  }
}
