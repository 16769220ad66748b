import type { DataSource } from 'typeorm';
import { FutureCallSchemaError } from '../contract/future-call.errors.js';
import { futureCallEntities } from '../tables/future-call.entity.js';
import type { RunStatement } from '../tables/migrations/future-call.schema-version.js';

const OLDEST_POSTGRES = 140_000;

/** Throws `FutureCallSchemaError` for a data source that future calls cannot live in, before anything is asked of it. */
export function checkDataSource(dataSource: DataSource): void {
  const { type } = dataSource.options;
  if (type !== 'postgres') {
    throw new FutureCallSchemaError(
      `FutureCallModule needs a TypeORM data source of type "postgres", but this one is "${type}". ` +
        `Give it another one: FutureCallModule.forRoot({ dataSource: 'name' }).`,
    );
  }
  // It knows no entity yet, or has no pool any more.
  if (!dataSource.isInitialized) {
    throw new FutureCallSchemaError(
      `The data source of future calls is not initialized: manualInitialization is true and nobody has initialized it, or it has been destroyed. ` +
        `Leave manualInitialization out of TypeOrmModule.forRoot(), or await dataSource.initialize() before app.init() and app.listen().`,
    );
  }
  for (const entity of futureCallEntities) {
    if (!dataSource.hasMetadata(entity)) {
      throw new FutureCallSchemaError(
        `The data source does not know the entities of future calls. ` +
          `Set autoLoadEntities: true in TypeOrmModule.forRoot(), or add ...futureCallEntities to its entities.`,
      );
    }
    const { columns, tableName } = dataSource.getMetadata(entity);
    const renamed = columns.find((column) => column.databaseName !== column.givenDatabaseName);
    if (renamed !== undefined) {
      throw new FutureCallSchemaError(
        `The data source's namingStrategy renames the column ${renamed.givenDatabaseName} of ${tableName} to ${renamed.databaseName}, ` +
          `and plain SQL relies on its name. Let columnName() return the custom name where one is given.`,
      );
    }
  }
}

/** Throws `FutureCallSchemaError` for a server that is too old, or is none. */
export async function checkServer(run: RunStatement): Promise<void> {
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
