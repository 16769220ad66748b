import { test } from 'vitest';
import {
  temporaryPostgres,
  type TemporaryOptions,
  type TemporaryPostgres,
} from '../../../scripts/embedded-postgres.mjs';
import { expectAtMostOnce, expectNothingLost } from './ledger.js';
import { World } from './world.js';

export interface Fixtures {
  world: World;
}

/**
 * A test with a world of its own. When it has passed, nothing may have been started twice, and nothing be lost: also
 * while processes still run.
 */
export const faultTest = test.extend<Fixtures>({
  // oxlint-disable-next-line no-empty-pattern -- vitest reads what a fixture needs from its first parameter
  world: async ({}, use) => {
    await inWorld(undefined, use);
  },
});

/** As `faultTest`, with a PostgreSQL of its own, which the test may stop. */
export const ownServerTest = (options: TemporaryOptions = {}) =>
  test.extend<Fixtures & { server: TemporaryPostgres }>({
    // oxlint-disable-next-line no-empty-pattern -- as above
    server: async ({}, use) => {
      const server = await temporaryPostgres(options);
      try {
        await use(server);
      } finally {
        await server.stop('immediate');
      }
    },
    world: async ({ server }, use) => {
      await inWorld(server.url, use);
    },
  });

async function inWorld(server: string | undefined, use: (world: World) => Promise<void>): Promise<void> {
  const world = await World.create(server);
  try {
    await use(world);
    await expectAtMostOnce(world.database);
    await expectNothingLost(world.database);
  } finally {
    await world.end();
  }
}

/** A figure for whoever reads the run: how long something took is never what decides a test. */
export function figure(what: string, value: string | number): void {
  console.info(`  ${what}: ${typeof value === 'number' ? Math.round(value) : value}`);
}
