import pg from 'pg';
import { DefaultNamingStrategy } from 'typeorm';
import { describe, expect, it, onTestFinished } from 'vitest';
import {
  FutureCall,
  futureCallMigrations,
  FutureCallOptionsError,
  FutureCallSchemaError,
  type FutureCallHandler,
} from '../../lib/index.js';
import { bootApp } from '../support/app.js';
import { createDatabase, type TestDatabase } from '../support/database.js';
import { createRole, isSuperuser } from '../support/role.js';
import { connect, NO_DIFF, readCatalog, schemaDiff, type PostgresOptions } from '../support/schema.js';

const migrations = [...futureCallMigrations];

async function makeDatabase(): Promise<TestDatabase> {
  const database = await createDatabase();
  onTestFinished(() => database.drop());
  return database;
}

/** Where a data source is told to have its tables, and where they have to be. */
interface Place {
  readonly typeorm: PostgresOptions;
  /** 'public' if not given. */
  readonly schema?: string;
  /** The table of outcomes, for one of them. */
  readonly outcome: string;
  /** TypeORM's own statements cannot write such a name; ours can. */
  readonly isBeyondTypeOrm?: boolean;
}

/** As typeorm-naming-strategies and many apps have it. */
class SnakeNamingStrategy extends DefaultNamingStrategy {
  override tableName(className: string, customName?: string): string {
    return customName ?? snakeCase(className);
  }

  override columnName(propertyName: string, customName: string | undefined, prefixes: string[]): string {
    return snakeCase(prefixes.concat('').join('_')) + (customName ?? snakeCase(propertyName));
  }

  override relationName(propertyName: string): string {
    return snakeCase(propertyName);
  }
}

const snakeCase = (text: string) => text.replace(/(?<=.)[A-Z]/g, '_$&').toLowerCase();

/** Has its own mind about tables, keys and indexes. */
class LoudNamingStrategy extends DefaultNamingStrategy {
  override tableName(className: string): string {
    return `${className}s`;
  }

  override columnName(propertyName: string, customName?: string): string {
    return customName ?? propertyName.toUpperCase();
  }

  override prefixTableName(prefix: string, name: string): string {
    return `${prefix}__${name}`;
  }

  override primaryKeyName(table: string | { name: string }, columns: string[]): string {
    return `PK ${typeof table === 'string' ? table : table.name} ${columns.join(' ')}`;
  }

  override indexName(table: string | { name: string }, columns: string[], where?: string): string {
    return `IX ${typeof table === 'string' ? table : table.name} ${columns.join(' ')} ${where ?? ''}`;
  }
}

const longest = 'x'.repeat(63 - 'future_call_instance'.length);

const PLACES: Record<string, Place> = {
  'a schema': { typeorm: { schema: 'calls' }, schema: 'calls', outcome: 'future_call_outcome' },
  'a schema with capitals and a space': {
    typeorm: { schema: 'My Calls' },
    schema: 'My Calls',
    outcome: 'future_call_outcome',
  },
  'a schema with quotes': {
    typeorm: { schema: `It's "ours"` },
    schema: `It's "ours"`,
    outcome: 'future_call_outcome',
    isBeyondTypeOrm: true,
  },
  'a prefix': { typeorm: { entityPrefix: 'app_' }, outcome: 'app_future_call_outcome' },
  'a prefix with capitals, a space and signs': {
    typeorm: { entityPrefix: 'Ümy App-$1 ' },
    outcome: 'Ümy App-$1 future_call_outcome',
  },
  'a prefix with quotes': {
    typeorm: { entityPrefix: `it's "ours" ` },
    outcome: `it's "ours" future_call_outcome`,
    isBeyondTypeOrm: true,
  },
  'the longest prefix': {
    typeorm: { entityPrefix: longest },
    outcome: `${longest}future_call_outcome`,
  },
  'a schema and a prefix': {
    typeorm: { schema: 'calls', entityPrefix: 'app_' },
    schema: 'calls',
    outcome: 'app_future_call_outcome',
  },
  'a naming strategy of snake case': {
    typeorm: { namingStrategy: new SnakeNamingStrategy(), entityPrefix: 'app_' },
    outcome: 'app_future_call_outcome',
  },
  'a naming strategy with a mind of its own': {
    typeorm: { namingStrategy: new LoudNamingStrategy(), entityPrefix: 'app', schema: 'calls' },
    schema: 'calls',
    outcome: 'app__FutureCallOutcomeEntitys',
  },
};

/** Uses every table: a call completes, one fails, one is cancelled. */
async function useCalls(database: TestDatabase, typeorm: PostgresOptions, migrate = true): Promise<void> {
  const ran: string[] = [];
  let done: () => void;
  const both = new Promise<void>((resolve) => (done = resolve));

  @FutureCall('call')
  class Call implements FutureCallHandler<string> {
    invoke(data: string) {
      if (ran.push(data) === 2) done();
      if (data === 'fail') throw new Error('on purpose');
    }
  }
  const { service, close } = await bootApp(database, { providers: [Call], options: { migrate }, typeorm });
  await service.callWithDelay(Call, 'complete', 0);
  await service.callWithDelay(Call, 'fail', 0);
  await service.callWithDelay(Call, 'cancel', '1h', { identifier: 'x' });
  expect(await service.cancel('x')).toBe(1);
  await both;
  await close();
  expect(new Set(ran)).toEqual(new Set(['complete', 'fail']));
}

/** A database where the three ways may make the tables. */
async function makePlace({ schema = 'public' }: Place): Promise<TestDatabase> {
  const database = await makeDatabase();
  // TypeORM wants it to be there: its table of migrations comes first.
  await database.query(`create schema if not exists ${pg.escapeIdentifier(schema)}`);
  return database;
}

async function boot(database: TestDatabase, typeorm: PostgresOptions, migrate: boolean): Promise<void> {
  const { close } = await bootApp(database, { options: { execute: false, migrate }, typeorm });
  await close();
}

describe('names', () => {
  it.each(Object.entries(PLACES))('of %s hold everywhere', async (_what, place) => {
    const database = await makeDatabase();
    await useCalls(database, place.typeorm);
    const table = [place.schema ?? 'public', place.outcome]
      .map((name) => pg.escapeIdentifier(name))
      .join('.');
    expect(await database.query(`select name, outcome from ${table}`)).toEqual([
      { name: 'call', outcome: 'failed' },
    ]);
  });

  it.each(Object.entries(PLACES).filter(([, place]) => !place.isBeyondTypeOrm))(
    'of %s are the same in all ways to the tables',
    async (_what, place) => {
      const { typeorm, schema } = place;
      const migrated = await makePlace(place);
      await boot(migrated, typeorm, true);
      expect(await schemaDiff(migrated, typeorm)).toEqual(NO_DIFF);
      const catalog = await readCatalog(migrated, schema);
      expect(catalog).toHaveProperty([place.outcome]);

      const byMigrations = await makePlace(place);
      await boot(byMigrations, { ...typeorm, migrations, migrationsRun: true }, false);
      expect(await readCatalog(byMigrations, schema)).toEqual(catalog);

      const synchronized = await makePlace(place);
      await boot(synchronized, { ...typeorm, synchronize: true }, false);
      expect(await readCatalog(synchronized, schema)).toEqual(catalog);
    },
  );

  it.each([
    ['a prefix', { entityPrefix: `x${longest}` }, 'entityPrefix'],
    ['a prefix with many bytes', { entityPrefix: 'ü'.repeat(22) }, 'entityPrefix'],
    ['a schema', { schema: 'x'.repeat(64) }, 'schema'],
  ])('that are too long are refused: %s', async (_what, typeorm, option) => {
    const database = await makeDatabase();
    for (const migrate of [true, false]) {
      const error = (await boot(database, typeorm, migrate).catch((thrown: unknown) => thrown)) as Error;
      expect(error).toBeInstanceOf(FutureCallOptionsError);
      expect(error.message).toMatch(
        new RegExp(`is longer than PostgreSQL's 63 bytes. Shorten the data source's ${option}`),
      );
    }
  });

  it.each([
    ['migrationsRun', { migrations, migrationsRun: true }],
    ['synchronize', { synchronize: true }],
  ])(
    'of a schema that does not exist are for migrate: true alone: TypeORM fails with %s',
    async (_what, way) => {
      const database = await makeDatabase();
      for (const migrate of [true, false]) {
        await expect(boot(database, { schema: 'nowhere', ...way }, migrate)).rejects.toThrow(
          'schema "nowhere" does not exist',
        );
      }
      await boot(database, { schema: 'nowhere' }, true);
      expect(await readCatalog(database, 'nowhere')).toHaveProperty(['future_call']);
    },
  );

  it('of columns that a naming strategy changes are refused', async () => {
    class ColumnsInCapitals extends DefaultNamingStrategy {
      override columnName(propertyName: string): string {
        return propertyName.toUpperCase();
      }
    }
    const typeorm = { namingStrategy: new ColumnsInCapitals() };
    const error = (await boot(await makeDatabase(), typeorm, true).catch(
      (thrown: unknown) => thrown,
    )) as Error;
    expect(error).toBeInstanceOf(FutureCallSchemaError);
    expect(error.message).toMatch(
      /namingStrategy renames the column id of future_call to ID, .* Let columnName\(\) return the custom name/,
    );
  });
});

describe('two prefixes in one schema', () => {
  it('are two worlds', async () => {
    const database = await makeDatabase();
    const apps = [];
    for (const entityPrefix of ['a_', 'b_']) {
      let ran!: (data: unknown) => void;
      const data = new Promise((resolve) => (ran = resolve));

      @FutureCall('call')
      class Call implements FutureCallHandler {
        invoke(given: unknown) {
          ran(given);
        }
      }
      apps.push({ ...(await bootApp(database, { providers: [Call], typeorm: { entityPrefix } })), data });
    }
    const [a, b] = apps as [(typeof apps)[0], (typeof apps)[0]];
    await a.service.callWithDelay('call', 'of a', 0);
    await b.service.callWithDelay('call', 'of b', 0);
    expect(await a.data).toBe('of a');
    expect(await b.data).toBe('of b');
    await a.service.callWithDelay('call', null, '1h', { identifier: 'x' });
    expect(await b.service.cancel('x')).toBe(0);
    expect(await a.service.cancel('x')).toBe(1);
    for (const { close } of apps) await close();
    for (const entityPrefix of ['a_', 'b_'])
      expect(await schemaDiff(database, { entityPrefix })).toEqual(NO_DIFF);
  });

  it('with migrations need two tables of migrations', async () => {
    const database = await makeDatabase();
    const as = (entityPrefix: string) => ({ entityPrefix, migrations, migrationsRun: true });
    await boot(database, as('a_'), false);
    // TypeORM finds in its table that there is nothing to do.
    await expect(boot(database, as('b_'), false)).rejects.toThrow(
      /tables of future calls are missing.*"b_future_call"/,
    );
    await boot(database, { ...as('b_'), migrationsTableName: 'b_migrations' }, false);
    expect(await schemaDiff(database, { entityPrefix: 'b_' })).toEqual(NO_DIFF);
    // Reverting one leaves the other.
    const dataSource = await connect(database, {
      ...as('b_'),
      migrationsRun: false,
      migrationsTableName: 'b_migrations',
    });
    await dataSource.undoLastMigration();
    const tables = await database.query(`select tablename from pg_tables where tablename ~ 'future_call$'`);
    expect(tables).toEqual([{ tablename: 'a_future_call' }]);
  });
});

describe("a role's own settings", () => {
  it('a search path that leads elsewhere decides only where no schema is given', async ({ skip }) => {
    const database = await makeDatabase();
    skip(!(await isSuperuser(database)), 'needs a superuser');
    const role = await createRole(database);
    await database.query(`
      create schema elsewhere authorization "${role.name}";
      create schema calls authorization "${role.name}";
      alter role "${role.name}" set search_path = elsewhere, public`);
    await useCalls(database, { url: role.url, schema: 'calls' });
    expect(await database.query('select name from calls.future_call_outcome')).toEqual([{ name: 'call' }]);
    expect(await readCatalog(database, 'elsewhere')).toBeNull();

    await useCalls(database, { url: role.url });
    expect(await database.query('select name from elsewhere.future_call_outcome')).toEqual([
      { name: 'call' },
    ]);
    expect(await schemaDiff(database, { url: role.url })).toEqual(NO_DIFF);
  });

  it.for([
    ['migrate: true', true, {}],
    ['migrations', false, { migrations, migrationsRun: true }],
  ] as const)('the right to create in a schema is enough: %s', async ([, migrate, typeorm], { skip }) => {
    const database = await makeDatabase();
    skip(!(await isSuperuser(database)), 'needs a superuser');
    const role = await createRole(database);
    await database.query(`create schema calls; grant usage, create on schema calls to "${role.name}"`);
    await useCalls(database, { url: role.url, schema: 'calls', ...typeorm }, migrate);
    expect(await schemaDiff(database, { schema: 'calls' })).toEqual(NO_DIFF);
  });
});

describe('replication', () => {
  it('everything of ours goes to the master', async () => {
    const database = await makeDatabase();
    const slave = new URL(database.url);
    slave.searchParams.set('options', '-c default_transaction_read_only=on -c search_path=pg_temp');
    const typeorm = { replication: { master: { url: database.url }, slaves: [{ url: slave.href }] } };
    await useCalls(database, typeorm);
    expect(await database.query('select name from future_call_outcome')).toEqual([{ name: 'call' }]);
    expect(await schemaDiff(database, typeorm)).toEqual(NO_DIFF);
  });
});
