import { Inject, Injectable, Logger } from '@nestjs/common';
import type { DataSource } from 'typeorm';
import { errorText } from '../common/describe-error.js';
import { futureCallEntities } from '../tables/future-call.entity.js';
import { FutureCallSchemaError } from '../contract/future-call.errors.js';
import {
  FUTURE_CALL_DATA_SOURCE,
  FUTURE_CALL_OPTIONS,
  type ResolvedOptions,
} from '../module/future-call.options.js';
import { futureCallTables, type FutureCallTables } from '../tables/future-call.tables.js';
import { upgradeTables } from '../tables/migrations/future-call.migration.js';
import { futureCallMigrations } from '../tables/migrations/future-call.migrations.js';
import {
  findSchema,
  type FoundSchema,
  type RunStatement,
} from '../tables/migrations/future-call.schema-version.js';
import { FutureCallConnection, type Query } from './future-call.connection.js';

const OLDEST_POSTGRES = 140_000;
const MIGRATIONS = futureCallMigrations.map((Migration) => new Migration());
/** The version that this release is made for. */
const VERSION = MIGRATIONS.at(-1)!.version;

/** PostgreSQL's "insufficient_privilege". */
const NOT_ALLOWED = '42501';

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
    this.checkDataSource();
    const tables = futureCallTables(this.dataSource);
    // Not on the app's pool: with a pool of one, an app that schedules inside a transaction while it boots would wait
    // for its own connection.
    const connection = await FutureCallConnection.open(this.dataSource, {
      applicationName: 'future-call schema',
    });
    try {
      const run = runnerOf((statement, values) => connection.query(statement, values));
      await this.checkServer(run);
      const found = await findSchema(run, tables);
      if (this.isBehind(found)) await connection.transaction((query) => this.upgrade(query, tables));
      else this.checkVersion(found, tables);
    } finally {
      await connection.close();
    }
    return tables;
  }

  private checkDataSource(): void {
    const { type } = this.dataSource.options;
    if (type !== 'postgres') {
      throw new FutureCallSchemaError(
        `FutureCallModule needs a TypeORM data source of type "postgres", but this one is "${type}". ` +
          `Give it another one: FutureCallModule.forRoot({ dataSource: 'name' }).`,
      );
    }
    for (const entity of futureCallEntities) {
      if (!this.dataSource.hasMetadata(entity)) {
        throw new FutureCallSchemaError(
          `The data source does not know the entities of future calls. ` +
            `Set autoLoadEntities: true in TypeOrmModule.forRoot(), or add ...futureCallEntities to its entities.`,
        );
      }
      const { columns, tableName } = this.dataSource.getMetadata(entity);
      const renamed = columns.find((column) => column.databaseName !== column.givenDatabaseName);
      if (renamed !== undefined) {
        throw new FutureCallSchemaError(
          `The data source's namingStrategy renames the column ${renamed.givenDatabaseName} of ${tableName} to ${renamed.databaseName}, ` +
            `and plain SQL relies on its name. Let columnName() return the custom name where one is given.`,
        );
      }
    }
  }

  private async checkServer(run: RunStatement): Promise<void> {
    const [number, ...name] = String(
      await run(`select current_setting('server_version_num') || ' ' || version()`),
    ).split(' ');
    if (name[0] === 'CockroachDB') {
      throw new FutureCallSchemaError(
        `Future calls need PostgreSQL's advisory locks, which CockroachDB does not have. Use a data source on PostgreSQL 14 or newer.`,
      );
    }
    if (Number(number) < OLDEST_POSTGRES) {
      throw new FutureCallSchemaError(
        `Future calls need PostgreSQL 14 or newer, but the server is ${name.slice(0, 2).join(' ')}. Upgrade the server.`,
      );
    }
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

  private async upgrade(query: Query, tables: FutureCallTables): Promise<void> {
    const run = runnerOf(query);
    // What the role or the database allows the app's statements is no measure for a migration. A process that is
    // frozen while it migrates must not keep all others from booting.
    await run(`select set_config('statement_timeout', '0', true), set_config('lock_timeout', '0', true),
      set_config('idle_in_transaction_session_timeout', '60s', true)`);
    // PostgreSQL 17 and newer.
    await run(`select set_config(name, '0', true) from pg_settings where name = 'transaction_timeout'`);
    let before: FoundSchema;
    try {
      before = await upgradeTables(run, this.dataSource, MIGRATIONS);
    } catch (error) {
      if ((error as { code?: unknown }).code !== NOT_ALLOWED) throw error;
      throw new FutureCallSchemaError(
        `This database role may not create or change the tables of future calls in the schema "${tables.schema}": ${errorText(error)}. ` +
          `Give it the right, or run futureCallMigrations as a role that has it and set migrate: false.`,
        { cause: error },
      );
    }
    // Another process may have been first.
    if (!this.isBehind(before)) this.checkVersion(before, tables);
    else if (before.version === 0) this.logger.log(`Created ${tables.pending.path} and its tables.`);
    else if (before.version < VERSION) {
      this.logger.log(`Upgraded the tables from version ${before.version} to ${VERSION}.`);
    }
  }
}

function runnerOf(query: Query): RunStatement {
  return async (text, values) => {
    const { rows } = await query({ text }, values);
    // Several statements in one text answer with none.
    return (rows as typeof rows | undefined)?.[0]?.[0];
  };
}
