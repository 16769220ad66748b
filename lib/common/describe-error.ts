import { inspect, types } from 'node:util';
import { onOneLine } from './text.js';

/** What is kept of anything that was thrown. */
export interface ErrorDescription {
  name: string;
  /** Never empty. */
  message: string;
  /** What the system or the database calls it: `ECONNREFUSED`, `40001`. */
  code?: string;
  stack?: string;
  cause?: ErrorDescription;
  /** The errors of an `AggregateError`. */
  errors?: ErrorDescription[];
}

/** Characters kept of a message, and of a stack. */
export const MAX_MESSAGE = 2_000;
export const MAX_STACK = 8_000;
const MAX_CODE = 100;
/** How many errors are followed from one to its cause. */
const MAX_CAUSES = 5;
/** How many of the errors of an `AggregateError` are kept. */
const MAX_INNER = 5;
/** How many causes and inner errors are kept in all. */
const MAX_RELATED = 10;

/** Describes anything that was thrown, in text that PostgreSQL can store. Never throws. */
export function describeError(thrown: unknown): ErrorDescription {
  return describeAny(thrown, { depth: 0, left: { related: MAX_RELATED } });
}

/** What was thrown, for a line of the log: on one line, never empty, with its code and what caused it. Never throws. */
export function errorText(thrown: unknown): string {
  return inOneLine(describeError(thrown));
}

/** As `errorText`, of what is described already. */
export function inOneLine(error: ErrorDescription): string {
  const text = onOneLine(lineOf(error));
  return text.length > MAX_MESSAGE ? `${text.slice(0, MAX_MESSAGE)}…` : text;
}

/** The stack for a log, with those of the causes and inner errors. Undefined when what was thrown has none. */
export function stackOf({ stack, cause, errors = [] }: ErrorDescription): string | undefined {
  if (stack === undefined) return undefined;
  const inner = errors.map((error) => `\nOne of its errors: ${stackOf(error) ?? error.message}`);
  return `${stack}${inner.join('')}${cause === undefined ? '' : `\nCaused by: ${stackOf(cause) ?? cause.message}`}`;
}

function lineOf({ name, message, code, errors = [], cause }: ErrorDescription): string {
  // Neither of them says anything, nor does what is no name: pg's "error", or the type of what was thrown.
  const named = name === 'Error' || /^[a-z]/.test(name) ? message : `${name}: ${message}`;
  const head = code === undefined || message.includes(code) ? named : `${withoutStop(named)} (code ${code})`;
  // Who wraps an error often says what that one said.
  const unsaid = (one: ErrorDescription) => !message.includes(one.message);
  const inner = errors.filter(unsaid).map(lineOf);
  const whole = inner.length === 0 ? head : `${withoutStop(head)} (${inner.join('; ')})`;
  return cause === undefined || !unsaid(cause) ? whole : `${withoutStop(whole)}, caused by ${lineOf(cause)}`;
}

/** What comes after it belongs to the same sentence. */
function withoutStop(text: string): string {
  return text.replace(/\.$/, '');
}

interface Place {
  /** How many errors lead here. */
  readonly depth: number;
  /** What may be kept yet. */
  readonly left: { related: number };
}

function describeAny(thrown: unknown, place: Place): ErrorDescription {
  try {
    return isError(thrown) ? describe(thrown, place) : describeOther(thrown);
  } catch {
    // A getter or a proxy of the user's that throws while it is looked at. What it throws may be another one.
    return { name: 'Unreadable', message: 'What was thrown cannot be read: looking at it throws.' };
  }
}

/** Those of another realm (`vm`, Jest) are no instances of ours, and some have only the looks of one. */
function isError(thrown: unknown): thrown is Error {
  if (typeof thrown !== 'object' || thrown === null) return false;
  if (types.isNativeError(thrown) || thrown instanceof Error) return true;
  const { name, message, stack } = thrown as Partial<Error>;
  return typeof name === 'string' && typeof message === 'string' && typeof stack === 'string';
}

function describe(error: Error, { depth, left }: Place): ErrorDescription {
  const name = clean(error.name, MAX_MESSAGE) || 'Error';
  const said = clean(error.message, MAX_MESSAGE);
  const code = codeOf(error);
  const stack = optional(error, 'stack');
  const inner = depth >= MAX_CAUSES ? [] : innerErrors(error).slice(0, Math.min(MAX_INNER, left.related));
  left.related -= inner.length;
  const cause: unknown = depth >= MAX_CAUSES || left.related === 0 ? undefined : optional(error, 'cause');
  if (cause !== undefined) left.related--;
  // The nearest first: they are counted before what they lead to.
  const next = { depth: depth + 1, left };
  const errors = inner.map((one) => describeAny(one, next));
  return {
    name,
    message: said.trim() === '' ? unspoken(errors, code) : said,
    ...(code === undefined ? {} : { code }),
    ...(stack === undefined ? {} : { stack: clean(stack, MAX_STACK) }),
    ...(cause === undefined ? {} : { cause: describeAny(cause, next) }),
    ...(errors.length === 0 ? {} : { errors }),
  };
}

/** For an error without a message: Node has none for a host of which no address answers. */
function unspoken(errors: ErrorDescription[], code: string | undefined): string {
  if (errors.length > 0) return clean(errors.map(lineOf).join('; '), MAX_MESSAGE);
  return code ?? '(no message)';
}

function codeOf(error: Error): string | undefined {
  const code = optional(error, 'code');
  // A number that all of a class have is an old name of the class (DOMException).
  const says = typeof code === 'number' ? Object.hasOwn(error, 'code') : typeof code === 'string';
  return says && code !== '' ? clean(code, MAX_CODE) : undefined;
}

function innerErrors(error: Error): unknown[] {
  const errors = optional(error, 'errors');
  if (!Array.isArray(errors)) return [];
  const isAggregate = error instanceof AggregateError || error.name === 'AggregateError';
  // Others keep there what they like, such as each field of a form.
  return errors.filter((one) => isAggregate || isError(one));
}

/** What an error may have beside its name and message: without what cannot be read, the rest is worth keeping. */
function optional(error: Error, property: string): unknown {
  try {
    return (error as unknown as Record<string, unknown>)[property];
  } catch {
    return undefined;
  }
}

function describeOther(thrown: unknown): ErrorDescription {
  const message = typeof thrown === 'string' && thrown.trim() !== '' ? thrown : inspect(thrown, { depth: 2 });
  return { name: thrown === null ? 'null' : typeof thrown, message: clean(message, MAX_MESSAGE) };
}

function clean(text: unknown, longest: number): string {
  const all = String(text);
  const cut = all.length > longest ? `${all.slice(0, longest)}… (${all.length} characters)` : all;
  return (cut as unknown as { toWellFormed(): string }).toWellFormed().replaceAll('\0', '\\0');
}
