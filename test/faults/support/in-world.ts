import {
  temporaryPostgres,
  type TemporaryOptions,
  type TemporaryPostgres,
} from '../../../scripts/embedded-postgres.mjs';
import { expectAtMostOnce, expectNothingLost } from './ledger.js';
import { World } from './world.js';

/**
 * A test with a world of its own. When it has passed, nothing may have been started twice, and nothing be lost: also
 * while processes still run.
 */
export function inWorld(work: (world: World) => Promise<void>): () => Promise<void> {
  return () => run(work);
}

/** As `inWorld`, with a PostgreSQL of its own, which the test may stop. */
export function inWorldOfItsOwn(
  work: (world: World, server: TemporaryPostgres) => Promise<void>,
  options: TemporaryOptions = {},
): () => Promise<void> {
  return async () => {
    // What a crash of PostgreSQL leaves is the same without fsync: the operating system goes on.
    const server = await temporaryPostgres({ ...options, settings: { fsync: 'off', ...options.settings } });
    try {
      await run((world) => work(world, server), server.url);
    } finally {
      await server.stop('immediate');
    }
  };
}

async function run(work: (world: World) => Promise<void>, server?: string): Promise<void> {
  const world = await World.create(server);
  try {
    await work(world);
    await expectAtMostOnce(world.database);
    await expectNothingLost(world.database);
  } catch (error) {
    // The test may have stopped the server, and cleaning up fails for that: it is not what went wrong.
    await world.end().catch(() => {});
    throw error;
  }
  await world.end();
}

/** A figure for whoever reads the run: how long something took is not what decides a test. */
export function figure(what: string, value: string | number): void {
  console.info(`  ${what}: ${typeof value === 'number' ? Math.round(value) : value}`);
}
