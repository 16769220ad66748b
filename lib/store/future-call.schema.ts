import { Inject, Injectable, Logger } from '@nestjs/common';
import type { DataSource } from 'typeorm';
import { futureCallEntities, SCHEMA_VERSION } from '../future-call.entity.js';
import { FutureCallSchemaError } from '../future-call.errors.js';
import {
  FUTURE_CALL_DATA_SOURCE,
  FUTURE_CALL_OPTIONS,
  type ResolvedOptions,
} from '../future-call.options.js';
import { futureCallTables, quoteName, type FutureCallTables } from '../future-call.tables.js';
import { storageSettings } from '../migrations/1795305600000-create-future-call.js';
import { SCHEMA_STEPS } from '../migrations/future-call.migrations.js';
import { findSchema, type FoundSchema, type RunStatement } from '../migrations/future-call.schema-version.js';
import { FutureCallConnection } from './future-call.connection.js';

const OLDEST_POSTGRES = 140_000;

/** Any number will do, as long as every process uses the same one while it creates or upgrades the tables. */
const MIGRATION_LOCK = 4_672_063_111;

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
      const run: RunStatement = async (text, values) => {
        const { rows } = await connection.query({ text: `select row_to_json(r) from (${text}) r` }, values);
        return rows.map(([json]) => JSON.parse(json!) as Record<string, unknown>);
      };
      await this.checkServer(run);
      const found = await findSchema(run, tables);
      if (this.isBehind(found)) await this.upgrade(connection, run, tables);
      else this.checkVersion(found);
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
    if (!futureCallEntities.every((entity) => this.dataSource.hasMetadata(entity))) {
      throw new FutureCallSchemaError(
        `The data source does not know the entities of future calls. ` +
          `Set autoLoadEntities: true in TypeOrmModule.forRoot(), or add ...futureCallEntities to its entities.`,
      );
    }
  }

  private async checkServer(run: RunStatement): Promise<void> {
    const [row] = await run(
      `select current_setting('server_version_num')::int as number, current_setting('server_version') as name, version() as full`,
    );
    if (String(row?.['full']).includes('CockroachDB')) {
      throw new FutureCallSchemaError(
        `Future calls need PostgreSQL's advisory locks, which CockroachDB does not have. Use a data source on PostgreSQL 14 or newer.`,
      );
    }
    if (Number(row?.['number']) < OLDEST_POSTGRES) {
      throw new FutureCallSchemaError(
        `Future calls need PostgreSQL 14 or newer, but the server is ${String(row?.['name'])}. Upgrade the server.`,
      );
    }
  }

  /** Whether something is left to do, by us. */
  private isBehind({ version, storageIsSet }: FoundSchema): boolean {
    if (this.options.migrate)
      return version < SCHEMA_VERSION || (version === SCHEMA_VERSION && !storageIsSet);
    // TypeORM made the tables, and cannot state the storage settings. Who lets it change tables lets us.
    return version === SCHEMA_VERSION && !storageIsSet && this.dataSource.options.synchronize === true;
  }

  private checkVersion({ version, readableSince }: FoundSchema): void {
    if (version === 0) {
      throw new FutureCallSchemaError(
        `The tables of future calls are missing, and migrate is false. Add ...futureCallMigrations to the data source's ` +
          `migrations and run them, or leave migrate at true.`,
      );
    }
    if (version < SCHEMA_VERSION) {
      throw new FutureCallSchemaError(
        `The tables of future calls are of version ${version}, this release needs ${SCHEMA_VERSION}, and migrate is false. ` +
          `Run the migrations in futureCallMigrations.`,
      );
    }
    if (readableSince > SCHEMA_VERSION) {
      throw new FutureCallSchemaError(
        `The tables of future calls are of version ${version}, which only releases that know version ${readableSince} can use; ` +
          `this one knows ${SCHEMA_VERSION}. Upgrade nestjs-future-call in this process.`,
      );
    }
    if (version > SCHEMA_VERSION) {
      this.logger.warn(
        `The tables are of version ${version}, this release knows ${SCHEMA_VERSION}. It works, as in a rolling deploy; upgrade this process too.`,
      );
    }
  }

  private async upgrade(
    connection: FutureCallConnection,
    run: RunStatement,
    tables: FutureCallTables,
  ): Promise<void> {
    const execute = (text: string) => connection.query({ text });
    await execute('begin');
    // Ten processes that boot at once: one creates, nine wait here and then find everything done.
    await connection.query({ text: 'select pg_advisory_xact_lock($1)' }, [MIGRATION_LOCK]);
    const found = await findSchema(run, tables);
    if (this.isBehind(found)) {
      const { count } = await connection.query({ text: 'select 1 from pg_namespace where nspname = $1' }, [
        tables.schema,
      ]);
      if (count === 0) await execute(`create schema ${quoteName(tables.schema)}`);
      for (const step of SCHEMA_STEPS.filter(({ version }) => version > found.version)) {
        for (const statement of step.statements(this.dataSource)) await execute(statement);
      }
      if (!found.storageIsSet)
        for (const statement of storageSettings(this.dataSource)) await execute(statement);
    } else {
      this.checkVersion(found);
    }
    await execute('commit');
  }
}
