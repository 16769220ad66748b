import assert from 'node:assert/strict';
import { FutureCallEntity, futureCallMigrations, FutureCallService } from 'nestjs-future-call';
import { DataSource } from 'typeorm';
import { boot } from './boot.js';

/** The three ways to the tables, by the schema that each is checked in. */
const WAYS = {
  by_us: { migrate: true },
  by_migrations: { migrate: false, migrations: [...futureCallMigrations], migrationsRun: true },
  by_synchronize: { migrate: false, synchronize: true },
};

export async function checkTables(): Promise<void> {
  await createSchemas(Object.keys(WAYS));
  for (const [schema, { migrate, ...typeorm }] of Object.entries(WAYS)) {
    const app = await boot({
      options: { migrate, execute: false, retention: { cancelled: '1d' } },
      typeorm: { schema, ...typeorm },
    });
    const dataSource = app.get(DataSource);
    await checkDiff(dataSource);
    await checkUse(app.get(FutureCallService), dataSource);
    if (schema === 'by_migrations') await checkUndo(dataSource);
    await app.close();
  }
}

/** TypeORM's own ways want the schema to be there. */
async function createSchemas(names: string[]): Promise<void> {
  const dataSource = new DataSource({ type: 'postgres', url: process.env.DATABASE_URL! });
  await dataSource.initialize();
  for (const name of names) await dataSource.query(`create schema ${name}`);
  await dataSource.destroy();
}

/** What `typeorm migration:generate` would write: nothing. */
async function checkDiff(dataSource: DataSource): Promise<void> {
  const { upQueries, downQueries } = await dataSource.driver.createSchemaBuilder().log();
  assert.deepEqual([...upQueries, ...downQueries], []);
}

/** The entities and the statements find the same tables. */
async function checkUse(service: FutureCallService, dataSource: DataSource): Promise<void> {
  const { id } = await service.callWithDelay('greet', { name: 'nobody' }, '1d', { identifier: 'way' });
  const repository = dataSource.getRepository(FutureCallEntity);
  const call = await repository.findOneByOrFail({ identifier: 'way' });
  assert.deepEqual([call.id, call.name, call.data], [id, 'greet', { name: 'nobody' }]);
  assert.equal(await service.cancel('way'), 1);
  assert.equal(await repository.count(), 0);
}

async function checkUndo(dataSource: DataSource): Promise<void> {
  await dataSource.undoLastMigration();
  const [row] = await dataSource.query<object[]>(`select to_regclass('by_migrations.future_call') as found`);
  assert.deepEqual(row, { found: null });
}
