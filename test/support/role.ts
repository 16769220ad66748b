import pg from 'pg';
import { inject, onTestFinished } from 'vitest';
import type { TestDatabase } from './database.js';

/** A database role without any rights, for one test. */
export interface TestRole {
  readonly name: string;
  /** The test's database, as this role. */
  readonly url: string;
}

export async function createRole(database: TestDatabase): Promise<TestRole> {
  const name = `${database.name}_role`;
  await database.query(`create role "${name}" login password 'secret'`);
  onTestFinished(async () => {
    // Before the role, what it owns and may do.
    await database.drop();
    const admin = new pg.Client(inject('serverUrl'));
    await admin.connect();
    await admin.query(`drop role "${name}"`);
    await admin.end();
  });
  const url = new URL(database.url);
  url.username = name;
  url.password = 'secret';
  return { name, url: url.href };
}

/** Whether the tests may create roles and the like: a server of the user's may not let them. */
export async function isSuperuser(database: TestDatabase): Promise<boolean> {
  const [row] = await database.query<{ rolsuper: boolean }>(
    'select rolsuper from pg_roles where rolname = current_user',
  );
  return row?.rolsuper === true;
}
