import { CreateFutureCall1795305600000 } from './1795305600000-create-future-call.js';
import type { FutureCallMigration } from './future-call.migration.js';

/**
 * The TypeORM migrations, for `migrations: [...futureCallMigrations]` in a data source, with `migrate: false`. From
 * the oldest to the newest; `migrate: true` runs the same ones.
 */
export const futureCallMigrations: readonly (new () => FutureCallMigration)[] = [
  CreateFutureCall1795305600000,
];
