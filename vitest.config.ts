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
    ],
    // The e2e tests wait for timers and processes most of the time.
    maxWorkers: 4,
    coverage: { include: ['lib/**'] },
  },
});
