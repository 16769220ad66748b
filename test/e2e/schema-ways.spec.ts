import { describe, expect, it } from 'vitest';
import { futureCallEntities, futureCallMigrations } from '../../lib/index.js';
import { bootApp } from '../support/app.js';
import type { TestDatabase } from '../support/database.js';
import { connect, NO_DIFF, readCatalog, schemaDiff, type PostgresOptions } from '../support/schema.js';
import { onEveryPostgres } from '../support/servers.js';

const migrations = [...futureCallMigrations];

const boots = (migrate: boolean, typeorm: PostgresOptions) => async (database: TestDatabase) => {
  const { close } = await bootApp(database, { options: { migrate, execute: false }, typeorm });
  await close();
};

/** The ways to the tables: what an app does at boot, or what somebody does before it. */
const WAYS = {
  'migrate: true': boots(true, {}),
  'migrations at boot': boots(false, { migrations, migrationsRun: true }),
  'migrations at boot, migrate: true': boots(true, { migrations, migrationsRun: true }),
  'migrations by the CLI': async (database: TestDatabase) => {
    const dataSource = await connect(database, { migrations });
    await dataSource.runMigrations();
    await dataSource.destroy();
    await boots(false, {})(database);
  },
  'synchronize, migrate: true': boots(true, { synchronize: true }),
  'synchronize, migrate: false': boots(false, { synchronize: true }),
};
type Way = keyof typeof WAYS;

/** Every one after every other. */
const CHANGES = (
  [
    ['migrate: true', 'migrations at boot', 'synchronize, migrate: false'],
    ['migrations at boot', 'synchronize, migrate: false', 'migrate: true'],
    ['synchronize, migrate: false', 'migrate: true', 'migrations at boot'],
  ] satisfies Way[][]
).map(([a, b, c]) => ({ first: a!, next: [b!, c!, a!, c!, b!, a!] }));

/** A row in each table, with something in every column. */
async function fill(database: TestDatabase): Promise<void> {
  const call = `'mail', 'me', '{"a": 1}', '2030-01-01', 2, '[{"attempt": 1}]', '2026-01-01'`;
  const columns = 'name, identifier, data, due_at, attempt, errors, created_at';
  await database.query(`insert into future_call (${columns}) values (${call})`);
  await database.query(
    `insert into future_call_running (id, instance_id, claim, ${columns}) values (7, 1, 3, ${call})`,
  );
  await database.query(
    `insert into future_call_outcome (call_id, outcome, instance_id, claim, host, pid, started_at, ${columns})
     values (8, 'failed', 1, 2, 'here', 99, '2026-01-02', ${call})`,
  );
  await database.query(
    `insert into future_call_instance (host, pid, poll_interval, handlers) values ('here', 99, 10000, '{"mail": 1}')`,
  );
}

const rowsOf = (database: TestDatabase) =>
  database.query(`
    select to_jsonb(c) as row from future_call c union all select to_jsonb(r) from future_call_running r
    union all select to_jsonb(o) from future_call_outcome o union all select to_jsonb(i) from future_call_instance i`);

const SETTINGS = `select relname, unnest(reloptions) as setting from pg_class where relname like 'future_call%'`;

onEveryPostgres((makeDatabase) => {
  const madeBy = async (way: Way) => {
    const database = await makeDatabase();
    await WAYS[way](database);
    return database;
  };

  describe('the ways to the tables', () => {
    it.each(Object.keys(WAYS) as Way[])('come to the same: %s', async (way) => {
      const database = await madeBy(way);
      expect(await schemaDiff(database)).toEqual(NO_DIFF);
      expect(await readCatalog(database)).toEqual(await readCatalog(await madeBy('migrate: true')));
    });

    it.each(CHANGES)('can be changed, with rows in the tables: beginning with $first', async (change) => {
      const database = await madeBy(change.first);
      await fill(database);
      const before = { catalog: await readCatalog(database), rows: await rowsOf(database) };
      expect(before.rows).toHaveLength(4);
      for (const next of change.next) {
        await WAYS[next](database);
        expect({ catalog: await readCatalog(database), rows: await rowsOf(database) }, next).toEqual(before);
      }
    });

    it.each(['migrate: true', 'migrations by the CLI'] as const)(
      'set what TypeORM cannot state on tables that it alone has made: %s',
      async (way) => {
        const database = await makeDatabase();
        const dataSource = await connect(database, { entities: [...futureCallEntities] });
        await dataSource.synchronize();
        expect(await database.query(SETTINGS)).toEqual([]);
        await WAYS[way](database);
        expect(await database.query(SETTINGS)).toEqual(
          expect.arrayContaining([
            { relname: 'future_call', setting: 'autovacuum_vacuum_scale_factor=0.01' },
            { relname: 'future_call_running', setting: 'autovacuum_vacuum_scale_factor=0.01' },
          ]),
        );
        expect(await readCatalog(database)).toEqual(await readCatalog(await madeBy('migrate: true')));
      },
    );

    it("leave an administrator's settings alone", async () => {
      const database = await madeBy('migrate: true');
      await database.query(
        'alter table future_call set (autovacuum_vacuum_threshold = 9000, fillfactor = 90)',
      );
      await database.query('alter table future_call_running reset (autovacuum_vacuum_cost_delay)');
      const tuned = await database.query(SETTINGS);
      for (const way of Object.values(WAYS)) await way(database);
      expect(await database.query(SETTINGS)).toEqual(tuned);
    });

    it.each(['all', 'each', 'none'] as const)(
      'run as migrations with transaction mode "%s"',
      async (mode) => {
        const database = await makeDatabase();
        await boots(false, { migrations, migrationsRun: true, migrationsTransactionMode: mode })(database);
        expect(await readCatalog(database)).toEqual(await readCatalog(await madeBy('migrate: true')));
      },
    );

    it('leave nothing behind when a migration fails without a transaction', async () => {
      const database = await makeDatabase();
      // The last table's place is taken: by the name of a type, so that nobody finds it before.
      await database.query('create type future_call_instance as enum ()');
      // That logger is silent.
      const dataSource = await connect(database, { migrations, logger: 'debug' });
      await expect(dataSource.runMigrations({ transaction: 'none' })).rejects.toThrow(/future_call_instance/);
      expect(await readCatalog(database)).toBeNull();
      await database.query('drop type future_call_instance');
      await dataSource.runMigrations({ transaction: 'none' });
      expect(await schemaDiff(database)).toEqual(NO_DIFF);
    });

    it('are undone by reverting the migration, whoever made the tables, and can be gone again', async () => {
      const database = await madeBy('migrate: true');
      const dataSource = await connect(database, { migrations });
      await dataSource.runMigrations();
      await dataSource.undoLastMigration();
      expect(await readCatalog(database)).toBeNull();
      await dataSource.runMigrations();
      expect(await readCatalog(database)).toEqual(await readCatalog(await madeBy('migrate: true')));
      // Somebody has dropped them already.
      await database.query(
        'drop table future_call, future_call_running, future_call_outcome, future_call_instance',
      );
      await dataSource.undoLastMigration();
      expect(await dataSource.query('select * from migrations')).toEqual([]);
    });
  });
});
