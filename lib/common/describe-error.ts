import { inspect } from 'node:util';

/** What is kept of anything that was thrown. */
export interface ErrorDescription {
  name: string;
  message: string;
  stack?: string;
  cause?: ErrorDescription;
}

/** Characters kept of a message, and of a stack. */
export const MAX_MESSAGE = 2_000;
export const MAX_STACK = 8_000;
/** How many causes are followed. */
const MAX_CAUSES = 5;

/** Describes anything that was thrown, in text that PostgreSQL can store. Never throws. */
export function describeError(thrown: unknown, depth = 0): ErrorDescription {
  try {
    return thrown instanceof Error ? describe(thrown, depth) : describeOther(thrown);
  } catch {
    // A getter or a proxy of the user's that throws while it is looked at. What it throws may be another one.
    return { name: 'Unreadable', message: 'What was thrown cannot be read: looking at it throws.' };
  }
}

/** The stack for a log, with those of the causes. Undefined when what was thrown has none. */
export function stackOf({ stack, cause }: ErrorDescription): string | undefined {
  if (stack === undefined || cause === undefined) return stack;
  return `${stack}\nCaused by: ${stackOf(cause) ?? cause.message}`;
}

function describe(error: Error, depth: number): ErrorDescription {
  return {
    name: clean(error.name, MAX_MESSAGE),
    message: clean(error.message, MAX_MESSAGE),
    ...(error.stack === undefined ? {} : { stack: clean(error.stack, MAX_STACK) }),
    ...(error.cause === undefined || depth >= MAX_CAUSES
      ? {}
      : { cause: describeError(error.cause, depth + 1) }),
  };
}

function describeOther(thrown: unknown): ErrorDescription {
  const message = typeof thrown === 'string' ? thrown : inspect(thrown, { depth: 2 });
  return { name: thrown === null ? 'null' : typeof thrown, message: clean(message, MAX_MESSAGE) };
}

function clean(text: unknown, longest: number): string {
  const all = String(text);
  const cut = all.length > longest ? `${all.slice(0, longest)}… (${all.length} characters)` : all;
  return (cut as unknown as { toWellFormed(): string }).toWellFormed().replaceAll('\0', '\\0');
}
