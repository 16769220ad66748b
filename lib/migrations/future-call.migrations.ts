import type { DataSource } from 'typeorm';
import { CreateFutureCall1795305600000, createFutureCall } from './1795305600000-create-future-call.js';

/** The TypeORM migrations, for `migrations: [...futureCallMigrations]` in a data source, with `migrate: false`. */
export const futureCallMigrations = [CreateFutureCall1795305600000] as const;

/** The same statements for `migrate: true`: what leads from the version before to this one. */
export const SCHEMA_STEPS: readonly { version: number; statements: (dataSource: DataSource) => string[] }[] =
  [{ version: 1, statements: createFutureCall }];
