import type { PathKey } from './json-path.js';

/** Something of the user's that throws when a value is written as JSON. */
export interface Thrower {
  readonly keys: readonly PathKey[];
  /** What throws, in words. */
  readonly what: string;
  readonly thrown: unknown;
}

/** `JSON.stringify` does not come this deep, and says so. */
const DEEPEST = 10_000;

interface Step {
  readonly holder: Readonly<Record<string, unknown>>;
  readonly key: string;
  readonly parent: Step | undefined;
  readonly depth: number;
}

/**
 * Finds what throws when a value is written as JSON: a getter, a `toJSON()` or a proxy. Goes the way of `JSON.stringify`
 * once more, which does not say where it was. Undefined when nothing throws this time.
 */
export function findThrower(value: unknown): Thrower | undefined {
  // Not recursive: what overflows the stack here is the user's own.
  const steps: Step[] = [{ holder: { '': value }, key: '', parent: undefined, depth: 0 }];
  for (let step = steps.pop(); step !== undefined; step = steps.pop()) {
    if (step.depth > DEEPEST) return undefined;
    const { holder, key } = step;
    let what = 'its getter';
    try {
      let result = holder[key];
      what = 'looking for its toJSON()';
      if (isObject(result) || typeof result === 'bigint') {
        const { toJSON } = result as { toJSON?: unknown };
        what = 'its toJSON()';
        if (typeof toJSON === 'function') result = toJSON.call(result, key);
      }
      what = 'looking at its properties';
      if (isObject(result) && !isAround(step, result)) pushChildren(steps, step, result);
    } catch (thrown) {
      return { keys: keysTo(step), what, thrown };
    }
  }
  return undefined;
}

function pushChildren(steps: Step[], parent: Step, holder: Step['holder']): void {
  const keys = Array.isArray(holder) ? Array.from(holder.keys(), String) : Object.keys(holder);
  for (const key of keys.toReversed()) steps.push({ holder, key, parent, depth: parent.depth + 1 });
}

/** Whether it contains itself: what is in it has been seen. */
function isAround(step: Step, value: object): boolean {
  for (let at: Step | undefined = step; at !== undefined; at = at.parent) {
    if (at.holder === value) return true;
  }
  return false;
}

function keysTo(step: Step): PathKey[] {
  const keys: PathKey[] = [];
  for (let at = step; at.parent !== undefined; at = at.parent) {
    keys.unshift({ key: at.key, isIndex: Array.isArray(at.holder) });
  }
  return keys;
}

function isObject(value: unknown): value is Step['holder'] {
  return typeof value === 'object' && value !== null;
}
