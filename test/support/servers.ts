import { existsSync } from 'node:fs';
import { afterAll, beforeAll, describe, inject, onTestFinished } from 'vitest';
import { temporaryPostgres, type TemporaryPostgres } from '../../scripts/embedded-postgres.mjs';
import { createDatabase, type TestDatabase } from './database.js';

/** Debian's: a second, older version. */
const OLDER = '/usr/lib/postgresql/15/bin';

/**
 * Runs the tests on the run's own PostgreSQL, and on an older version where there is one. They get a function that
 * makes a database for one test.
 */
export function onEveryPostgres(tests: (makeDatabase: () => Promise<TestDatabase>) => void): void {
  const makeDatabase = async (server: string) => {
    const database = await createDatabase({ server });
    onTestFinished(() => database.drop());
    return database;
  };

  describe('on the PostgreSQL of this run', () => {
    tests(() => makeDatabase(inject('serverUrl')));
  });

  describe.skipIf(!existsSync(OLDER))(`on PostgreSQL 15 (${OLDER})`, () => {
    let server: TemporaryPostgres;
    beforeAll(async () => {
      server = await temporaryPostgres({ binDir: OLDER, settings: { fsync: 'off' } });
    });
    afterAll(() => server.stop());
    tests(() => makeDatabase(server.url));
  });
}
