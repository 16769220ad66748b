import { types } from 'node:util';
import { show } from './show.js';
import { textProblem } from './text.js';

// What JSON would silently lose or change of a value, in words, with the cure. Undefined when nothing is.

/** Of what is written. */
export function problemOf(value: unknown): string | undefined {
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

/** Of what stood there before its `toJSON()`: a Buffer would become an object of numbers, and an Invalid Date null. */
export function problemOfWhatWas(value: unknown): string | undefined {
  if (types.isAnyArrayBuffer(value) || ArrayBuffer.isView(value)) {
    return `is binary (${value.constructor.name}), which JSON cannot carry. Pass it as a base64 string, or store it elsewhere and pass where`;
  }
  if (types.isDate(value) && Number.isNaN(value.getTime())) return 'is an Invalid Date';
  return undefined;
}

function problemOfObject(value: object): string | undefined {
  // What nearly all data is made of.
  const prototype: unknown = Object.getPrototypeOf(value);
  if (prototype === Object.prototype || prototype === null || prototype === Array.prototype) return undefined;
  // JSON.stringify unwraps them.
  if (types.isBoxedPrimitive(value)) return problemOfBoxed(value);
  if (types.isNativeError(value)) {
    return 'is an Error, of which JSON would leave the message out. Pass { message: error.message }';
  }
  return problemOfWhatWas(value) ?? (Array.isArray(value) ? undefined : problemOfEmpty(value));
}

function problemOfBoxed(value: object): string | undefined {
  const primitive: unknown = value.valueOf();
  return typeof primitive === 'symbol'
    ? `is ${show(primitive)}, which JSON cannot carry`
    : problemOf(primitive);
}

/**
 * Of what JSON would write as {}. An instance of a class without properties is honest: there may be nothing to lose. That
 * there is, is known of what the language and the platform bring (they have a tag), and of what can be iterated, or
 * has properties that JSON leaves out: hidden, inherited, or behind a getter.
 */
function problemOfEmpty(value: object): string | undefined {
  const tag = Object.prototype.toString.call(value).slice('[object '.length, -1);
  // A property that somebody put on a Map does not carry what is in it.
  if (Object.keys(value).length > 0 && !Object.hasOwn(CURES, tag)) return undefined;
  const hidesSomething =
    tag !== 'Object' ||
    Symbol.iterator in value ||
    Symbol.asyncIterator in value ||
    Reflect.ownKeys(value).length > 0 ||
    inheritsSomething(value);
  if (!hidesSomething) return undefined;
  const kind = tag === 'Object' ? (classOf(value) ?? 'object') : tag;
  return `is ${article(kind)} ${kind}, which JSON would write as {}. ${cureOf(tag, value)}`;
}

function cureOf(tag: string, value: object): string {
  if (Object.hasOwn(CURES, tag)) return CURES[tag]!;
  const own = tag === 'Object' && classOf(value) !== undefined ? ', or give its class a toJSON()' : '';
  if (Symbol.iterator in value) return `Pass [...it]${own}`;
  return `Pass what the handler needs of it as a plain object${own}`;
}

const CURES: Record<string, string> = {
  Map: 'Pass Object.fromEntries(map)',
  Set: 'Pass [...set]',
  Promise: 'Await it',
  RegExp: 'Pass its source',
  URLSearchParams: 'Pass its toString()',
  Headers: 'Pass Object.fromEntries(headers)',
  FormData: 'Pass Object.fromEntries(form)',
  Request: 'Pass what the handler needs of it, such as await request.json()',
  Response: 'Pass what the handler needs of it, such as await response.json()',
  Blob: 'Store it elsewhere and pass where',
  File: 'Store it elsewhere and pass where',
};

function article(noun: string): string {
  return /^[AEIO]/i.test(noun) ? 'an' : 'a';
}

function classOf(value: object): string | undefined {
  const { constructor } = value as { constructor?: unknown };
  const name = typeof constructor === 'function' ? constructor.name : '';
  return name === '' || name === 'Object' ? undefined : name;
}

/** Methods aside. */
function inheritsSomething(value: object): boolean {
  for (let at: object = value; ;) {
    const prototype = Object.getPrototypeOf(at) as object | null;
    // What all objects inherit has a getter itself: __proto__.
    if (prototype === null || Object.getPrototypeOf(prototype) === null) return false;
    const inherited = Object.values(Object.getOwnPropertyDescriptors(prototype));
    const isData = (one: PropertyDescriptor) =>
      'value' in one ? one.enumerable === true && typeof one.value !== 'function' : 'get' in one;
    if (inherited.some(isData)) return true;
    at = prototype;
  }
}
