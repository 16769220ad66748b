import type { DataSource } from 'typeorm';
import { beforeEach, describe, expect, it } from 'vitest';
import {
  FutureCall,
  futureCallMigrations,
  FutureCallSchemaError,
  type FutureCallHandler,
} from '../../lib/index.js';
import { futureCallTables } from '../../lib/tables/future-call.tables.js';
import { FutureCallMigration } from '../../lib/tables/migrations/future-call.migration.js';
import { bootApp, type BootOptions } from '../support/app.js';
import { createDatabase, type TestDatabase } from '../support/database.js';
import { LogLines } from '../support/log-lines.js';
import { connect, NO_DIFF, readCatalog, schemaDiff } from '../support/schema.js';

const VERSION = futureCallMigrations.length;

const comment = (version: number, readableSince: number) =>
  `comment on table future_call is 'nestjs-future-call: schema ${version}, readable since ${readableSince}'`;

/** A migration of a release to come, as its author would write it: a column more. */
class AddPriority1999999999999 extends FutureCallMigration {
  override readonly name = 'AddPriority1999999999999';
  override readonly version = VERSION + 1;

  override statements(dataSource: DataSource): string[] {
    const { pending, running } = futureCallTables(dataSource);
    return [
      `alter table ${pending.path} add column priority integer not null default 0`,
      `alter table ${running.path} add column priority integer not null default 0`,
      comment(VERSION + 1, VERSION),
    ];
  }

  override undo(dataSource: DataSource): string[] {
    const { pending, running } = futureCallTables(dataSource);
    return [
      `alter table ${pending.path} drop column priority`,
      `alter table ${running.path} drop column priority`,
      comment(VERSION, 1),
    ];
  }
}

const migrations = [...futureCallMigrations, AddPriority1999999999999];

let database: TestDatabase;
beforeEach(async () => {
  database = await createDatabase();
  return () => database.drop();
});

/** Boots and closes. What is tested is whether it can. */
async function boot(options: BootOptions): Promise<void> {
  await (await bootApp(database, options)).close();
}

describe('the migrations', () => {
  it('have versions from 1 without a gap, in the order of their times', () => {
    const all = futureCallMigrations.map((Migration) => new Migration());
    expect(all.map(({ version }) => version)).toEqual(all.map((_, index) => index + 1));
    expect(all.map(({ name }) => name.slice(-13))).toEqual(all.map(({ name }) => name.slice(-13)).toSorted());
    // TypeORM takes the name of the class or of the instance, as it pleases.
    expect(all.map(({ name }) => name)).toEqual(futureCallMigrations.map(({ name }) => name));
  });

  it('lead to the next version and back, with calls in the tables', async () => {
    await boot({ options: { execute: false } });
    await database.query(`insert into future_call (name, due_at) values ('later', '2100-01-01')`);
    const before = await readCatalog(database);
    const dataSource = await connect(database, { migrations });
    await dataSource.runMigrations();
    expect(await database.query('select name, priority from future_call')).toEqual([
      { name: 'later', priority: 0 },
    ]);
    await dataSource.undoLastMigration();
    expect(await readCatalog(database)).toEqual(before);
    expect(await schemaDiff(database)).toEqual(NO_DIFF);
    expect(await database.query('select name from future_call')).toEqual([{ name: 'later' }]);
  });
});

describe('on tables of a newer version', () => {
  beforeEach(async () => {
    const dataSource = await connect(database, { migrations });
    await dataSource.runMigrations();
    await dataSource.destroy();
  });

  it.each([true, false])('that adds something, it works, with one warning (migrate: %s)', async (migrate) => {
    const newer = await readCatalog(database);
    const log = new LogLines();
    let ran: (data: unknown) => void;
    const running = new Promise((resolve) => (ran = resolve));

    @FutureCall('greet')
    class Greet implements FutureCallHandler {
      invoke(data: unknown) {
        ran(data);
      }
    }
    const { service, close } = await bootApp(database, {
      providers: [Greet],
      options: { migrate },
      typeorm: { migrations: [...futureCallMigrations], migrationsRun: true },
      logger: log,
    });
    await service.callWithDelay('greet', 'you', 0);
    expect(await running).toBe('you');
    await service.callWithDelay('greet', 'you', '1h', { identifier: 'x' });
    expect(await service.cancel('x')).toBe(1);
    await close();

    const known = `The tables are of version ${VERSION + 1}, this release knows ${VERSION}.`;
    expect(log.warnings).toEqual([expect.stringContaining(known)]);
    expect(await readCatalog(database)).toEqual(newer);
  });

  it.each([true, false])(
    'that this release cannot read, it refuses to boot (migrate: %s)',
    async (migrate) => {
      await database.query(comment(VERSION + 2, VERSION + 1));
      const newer = await readCatalog(database);
      for (const execute of [true, false]) {
        await expect(boot({ options: { migrate, execute } })).rejects.toThrow(
          new FutureCallSchemaError(
            `The tables of future calls are of version ${VERSION + 2}, which only releases that know version ${VERSION + 1} can use; ` +
              `this one knows ${VERSION}. Upgrade nestjs-future-call in this process.`,
          ),
        );
      }
      expect(await readCatalog(database)).toEqual(newer);
    },
  );
});

describe('with migrate: false', () => {
  it('missing tables are refused, with the cure', async () => {
    await expect(boot({ options: { migrate: false } })).rejects.toThrow(
      new FutureCallSchemaError(
        'The tables of future calls are missing ("public"."future_call"), and migrate is false. ' +
          `Add ...futureCallMigrations to the data source's migrations and run them, or leave migrate at true.`,
      ),
    );
    expect(await readCatalog(database)).toBeNull();
  });

  it('tables of an older version are refused, with the cure', async () => {
    await boot({ options: { execute: false } });
    await database.query(comment(VERSION - 1, VERSION - 1));
    const older = await readCatalog(database);
    await expect(boot({ options: { migrate: false } })).rejects.toThrow(
      new FutureCallSchemaError(
        `The tables of future calls are of version ${VERSION - 1}, this release needs ${VERSION}, and migrate is false. ` +
          `Run the migrations in futureCallMigrations.`,
      ),
    );
    expect(await readCatalog(database)).toEqual(older);
  });
});
