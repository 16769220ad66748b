import { existsSync } from 'node:fs';
import { afterAll, beforeAll, describe, inject } from 'vitest';
import { temporaryPostgres, type TemporaryPostgres } from '../../scripts/embedded-postgres.mjs';
import { createDatabase, type TestDatabase } from './database.js';

/** Debian's: a second, older version. */
const OLDER = '/usr/lib/postgresql/15/bin';

/** Runs the tests on the run's own PostgreSQL, and on an older version where there is one. */
export function onEveryPostgres(tests: (create: () => Promise<TestDatabase>) => void): void {
  describe('on the PostgreSQL of this run', () => {
    tests(() => createDatabase({ server: inject('serverUrl') }));
  });

  describe.skipIf(!existsSync(OLDER))(`on PostgreSQL 15 (${OLDER})`, () => {
    let server: TemporaryPostgres;
    beforeAll(async () => {
      server = await temporaryPostgres({ binDir: OLDER, settings: { fsync: 'off' } });
    });
    afterAll(() => server.stop());
    tests(() => createDatabase({ server: server.url }));
  });
}
