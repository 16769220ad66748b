import { defineConfig } from 'vitest/config';
import { LongestFirst } from './test/support/longest-first.js';

// The type tests (test/types) need no runner: tsc -p tsconfig.json compiles them, and fails on a line that is
// marked with "ts-expect-error" and compiles.
export default defineConfig({
  // Nest and TypeORM need the metadata of legacy decorators.
  oxc: { decorator: { legacy: true, emitDecoratorMetadata: true } },
  test: {
    projects: [
      { extends: true, test: { name: 'unit', include: ['test/unit/**/*.spec.ts'] } },
      {
        extends: true,
        // One project, although the folders are several: each would have a PostgreSQL of its own.
        test: {
          name: 'postgres',
          include: ['test/{e2e,faults,model}/**/*.spec.ts'],
          globalSetup: 'test/support/global-setup.ts',
        },
      },
    ],
    // What is waited for gives up before, and says what it was. Giving up late costs nothing, also on a slow machine.
    testTimeout: 600_000,
    hookTimeout: 600_000,
    // Most tests wait for timers and processes most of the time.
    maxWorkers: 5,
    sequence: { sequencer: LongestFirst },
    coverage: { include: ['lib/**'] },
  },
});
