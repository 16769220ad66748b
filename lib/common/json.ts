import { errorText } from './describe-error.js';
import { pathOf, type PathKey } from './json-path.js';
import { findThrower } from './json-thrower.js';
import { problemOf, problemOfWhatWas } from './json-problems.js';
import { show } from './show.js';
import { textProblem } from './text.js';

/**
 * Writes a value as JSON that PostgreSQL's `jsonb` can store and that reads back as what was meant. Follows
 * `JSON.stringify`, but refuses what that would silently change: NaN, Infinity, a Map, binary data. `undefined` is
 * null. Throws `RangeError` with a message for the user that says where; its cause is what the user's own code threw.
 */
export function toJson(value: unknown): string | null {
  if (value === undefined || value === null) return null;
  const walk = new Walk();
  let json: string | undefined;
  try {
    json = JSON.stringify(value, function (this: object, key: string, result: unknown) {
      walk.visit(this, key, result);
      return result;
    });
  } catch (error) {
    throw error instanceof JsonError ? error : unwritable(value, error);
  }
  if (json !== undefined && json.length > LARGEST / 3 && Buffer.byteLength(json) > LARGEST) {
    throw new JsonError(
      `data is too large for jsonb: ${Buffer.byteLength(json)} bytes of ${LARGEST}. Store it elsewhere and pass where.`,
    );
  }
  // What toJSON() of the whole value left.
  return json === undefined || json === 'null' ? null : json;
}

/** What the error of `JSON.stringify` means, which does not say where it was. */
function unwritable(value: unknown, thrown: unknown): JsonError {
  const found = findThrower(value);
  if (found !== undefined) {
    return new JsonError(
      `${pathOf(found.keys)} cannot be written as JSON: ${found.what} throws (${errorText(found.thrown)}).`,
      { cause: found.thrown },
    );
  }
  const says = errorText(thrown);
  // The stack, as JSON.stringify walks recursively; or the longest string that there is.
  if (thrown instanceof RangeError && /call stack/.test(says)) {
    return new JsonError(`data is nested too deeply (${says}). Store it elsewhere and pass where.`);
  }
  if (thrown instanceof RangeError && /string length/.test(says)) {
    return new JsonError(`data is too large (${says}). Store it elsewhere and pass where.`);
  }
  return new JsonError(`data cannot be written as JSON: ${says}.`, { cause: thrown });
}

/** Bytes that PostgreSQL's `jsonb` takes in one value. */
const LARGEST = 0x0f_ff_ff_ff;

class JsonError extends RangeError {}

/** What has been seen of a value, to know where in it we are. */
class Walk {
  private readonly parents = new Map<object, { holder: object; key: string }>();

  visit(holder: object, key: string, result: unknown): void {
    const original = (holder as Record<string, unknown>)[key];
    const problem =
      textIn(key) ??
      (result === original ? undefined : problemOfWhatWas(original)) ??
      problemOf(result) ??
      this.topProblem(key, result);
    if (problem !== undefined) throw new JsonError(`${this.pathTo(holder, key)} ${problem}.`);
    if (typeof result !== 'object' || result === null) return;
    for (let at: object | undefined = holder; at !== undefined; at = this.parents.get(at)?.holder) {
      if (at === result) throw new JsonError(`${this.pathTo(holder, key)} contains itself.`);
    }
    this.parents.set(result, { holder, key });
  }

  /** JSON.stringify leaves a function or a symbol out; alone, nothing would be left. */
  private topProblem(key: string, result: unknown): string | undefined {
    if (this.parents.size > 0 || key !== '') return undefined;
    return typeof result === 'function' || typeof result === 'symbol'
      ? `is ${show(result)}, which JSON cannot carry`
      : undefined;
  }

  private pathTo(holder: object, key: string): string {
    const keys: PathKey[] = [];
    for (
      let at: { holder: object; key: string } | undefined = { holder, key };
      at;
      at = this.parents.get(at.holder)
    ) {
      keys.unshift({ key: at.key, isIndex: Array.isArray(at.holder) });
    }
    // The outermost holder is the wrapper that JSON.stringify begins with, and its key is empty.
    return pathOf(keys.slice(1));
  }
}

function textIn(key: string): string | undefined {
  const problem = textProblem(key);
  return problem && `has a key with ${problem}`;
}
