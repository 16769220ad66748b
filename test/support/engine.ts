import type { INestApplicationContext } from '@nestjs/common';
import type { EngineParts } from '../../lib/engine/future-call.engine-parts.js';
import { FutureCallRunner } from '../../lib/engine/future-call.runner.js';

/** What runs the calls of an app that executes: for tests that take a part of it into their own hands. */
export function engineOf(app: INestApplicationContext): EngineParts {
  const { engine } = app.get(FutureCallRunner, { strict: false });
  if (engine === undefined) throw new Error('This app runs no calls now.');
  return engine.parts;
}
