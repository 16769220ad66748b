import { defineConfig } from 'vitest/config';

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
        test: {
          name: 'e2e',
          include: ['test/e2e/**/*.spec.ts'],
          globalSetup: 'test/support/global-setup.ts',
          testTimeout: 60_000,
          hookTimeout: 60_000,
        },
      },
      {
        extends: true,
        test: {
          name: 'model',
          include: ['test/model/**/*.spec.ts'],
          globalSetup: 'test/support/global-setup.ts',
          hookTimeout: 60_000,
        },
      },
      {
        extends: true,
        test: {
          name: 'faults',
          include: ['test/faults/**/*.spec.ts'],
          globalSetup: 'test/support/global-setup.ts',
          // PostgreSQL ends a frozen session after 30 s, and some tests wait for that. Giving up late costs nothing.
          testTimeout: 180_000,
          hookTimeout: 60_000,
        },
      },
    ],
    // The e2e tests and the faults wait for timers and processes most of the time.
    maxWorkers: 4,
    coverage: { include: ['lib/**'] },
  },
});
