import { DataSource, type DataSourceOptions } from 'typeorm';
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { futureCallEntities, futureCallMigrations } from '../../lib/index.js';
import { bootApp } from '../support/app.js';
import { readCatalog } from '../support/catalog.js';
import type { TestDatabase } from '../support/database.js';
import { onEveryPostgres } from '../support/servers.js';

/** A data source without Nest, as TypeORM's CLI makes one. */
async function connect(
  database: TestDatabase,
  options: Partial<DataSourceOptions> = {},
): Promise<DataSource> {
  const dataSource = new DataSource({ type: 'postgres', url: database.url, ...options } as DataSourceOptions);
  await dataSource.initialize();
  onTestFinished(async () => {
    if (dataSource.isInitialized) await dataSource.destroy();
  });
  return dataSource;
}

const boots = (migrate: boolean, typeorm: Partial<DataSourceOptions>) => async (database: TestDatabase) => {
  const { close } = await bootApp(database, { options: { migrate, execute: false }, typeorm });
  await close();
};

/** The ways to the tables. Each one is what an app does at boot, or what somebody does before it. */
const WAYS = {
  'migrate: true': boots(true, {}),
  'migrations at boot': boots(false, { migrations: [...futureCallMigrations], migrationsRun: true }),
  'migrations by the CLI': async (database: TestDatabase) => {
    const dataSource = await connect(database, { migrations: [...futureCallMigrations] });
    await dataSource.runMigrations();
    await boots(false, {})(database);
  },
  'synchronize, migrate: true': boots(true, { synchronize: true }),
  'synchronize, migrate: false': boots(false, { synchronize: true }),
};
type Way = keyof typeof WAYS;

/** What `typeorm migration:generate` would write, and what it would write to take that back. */
async function schemaDiff(database: TestDatabase): Promise<{ up: string[]; down: string[] }> {
  const dataSource = await connect(database, { entities: [...futureCallEntities] });
  const { upQueries, downQueries } = await dataSource.driver.createSchemaBuilder().log();
  return { up: upQueries.map(({ query }) => query), down: downQueries.map(({ query }) => query) };
}

onEveryPostgres((create) => {
  const database = async () => {
    const made = await create();
    onTestFinished(() => made.drop());
    return made;
  };

  describe('the three ways to the tables', () => {
    let expected: unknown;
    beforeAll(async () => {
      const reference = await create();
      const dataSource = await new DataSource({
        type: 'postgres',
        url: reference.url,
        migrations: [...futureCallMigrations],
      }).initialize();
      await dataSource.runMigrations();
      await dataSource.destroy();
      expected = await readCatalog(reference);
      await reference.drop();
    });

    it.each(Object.keys(WAYS) as Way[])('%s makes the same tables', async (way) => {
      const made = await database();
      await WAYS[way](made);
      expect(await readCatalog(made)).toEqual(expected);
      expect(await schemaDiff(made)).toEqual({ up: [], down: [] });
    });
  });
});
