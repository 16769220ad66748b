import { types } from 'node:util';
import { show } from './show.js';
import { textProblem } from './text.js';

/**
 * Writes a value as JSON that PostgreSQL's `jsonb` can store and that reads back as what was meant. Follows
 * `JSON.stringify`, but refuses what that would silently change: NaN, Infinity, a Map, binary data. `undefined` is
 * null. Throws `RangeError` with a message for the user that says where.
 */
export function toJson(value: unknown): string | null {
  if (value === undefined || value === null) return null;
  const walk = new Walk();
  try {
    const json = JSON.stringify(value, function (this: object, key: string, result: unknown) {
      walk.visit(this, key, result);
      return result;
    });
    if (json !== undefined && json.length > LARGEST / 3 && Buffer.byteLength(json) > LARGEST) {
      throw new JsonError(
        `data is too large for jsonb: ${Buffer.byteLength(json)} bytes of ${LARGEST}. Store it elsewhere and pass where.`,
      );
    }
    // What toJSON() of the whole value left.
    return json === undefined || json === 'null' ? null : json;
  } catch (error) {
    // The stack, as JSON.stringify walks recursively; or the longest string that there is.
    if (error instanceof RangeError && !(error instanceof JsonError)) {
      throw new RangeError(`data is nested too deeply, or too large (${error.message}).`, { cause: error });
    }
    throw error;
  }
}

/** Bytes that PostgreSQL's `jsonb` takes in one value. */
const LARGEST = 0x0f_ff_ff_ff;

class JsonError extends RangeError {}

/** What has been seen of a value, to know where in it we are. */
class Walk {
  private readonly parents = new Map<object, { holder: object; key: string }>();

  visit(holder: object, key: string, result: unknown): void {
    // What stood there before toJSON(): a Buffer has one, and would become an object of numbers.
    const original = (holder as Record<string, unknown>)[key];
    const problem =
      textIn(key) ??
      problemOf(original) ??
      (result === original ? undefined : problemOf(result)) ??
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
    const keys: string[] = [];
    for (
      let at: { holder: object; key: string } | undefined = { holder, key };
      at;
      at = this.parents.get(at.holder)
    ) {
      keys.unshift(
        Array.isArray(at.holder) ? `[${at.key}]` : `.${/^[\w$]+$/.test(at.key) ? at.key : show(at.key)}`,
      );
    }
    // The outermost holder is the wrapper that JSON.stringify begins with, and its key is empty.
    return `data${keys.slice(1).join('')}`;
  }
}

function problemOf(value: unknown): string | undefined {
  switch (typeof value) {
    case 'bigint':
      return `is the bigint ${show(value)}, which JSON cannot carry. Pass it as a string`;
    case 'number':
      return Number.isFinite(value) ? undefined : `is ${value}, which JSON cannot carry`;
    case 'string': {
      const problem = textProblem(value);
      return problem && `has ${problem}`;
    }
    case 'object':
      return value === null ? undefined : problemOfObject(value);
    default:
      return undefined;
  }
}

function problemOfObject(value: object): string | undefined {
  // JSON.stringify unwraps them.
  if (types.isBoxedPrimitive(value)) return problemOf(value.valueOf());
  if (types.isMap(value)) return 'is a Map, which JSON would write as {}. Pass Object.fromEntries(map)';
  if (types.isSet(value)) return 'is a Set, which JSON would write as {}. Pass [...set]';
  if (types.isPromise(value)) return 'is a Promise, which JSON would write as {}. Await it';
  if (types.isRegExp(value)) return 'is a RegExp, which JSON would write as {}. Pass its source';
  if (types.isNativeError(value) && !('toJSON' in value)) {
    return 'is an Error, of which JSON would leave the message out. Pass { message: error.message }';
  }
  if (types.isAnyArrayBuffer(value) || ArrayBuffer.isView(value)) {
    return `is binary (${value.constructor.name}), which JSON cannot carry. Pass it as a base64 string, or store it elsewhere and pass where`;
  }
  if (types.isDate(value) && Number.isNaN(value.getTime())) return 'is an Invalid Date';
  return undefined;
}

function textIn(key: string): string | undefined {
  const problem = textProblem(key);
  return problem && `has a key with ${problem}`;
}
