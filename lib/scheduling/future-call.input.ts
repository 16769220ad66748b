import { types } from 'node:util';
import type { EntityManager } from 'typeorm';
import { parseDelay, type ParsedDelay } from '../common/duration.js';
import { toJson } from '../common/json.js';
import { show } from '../common/show.js';
import { labelProblem } from '../common/text.js';
import { wallClock } from '../common/timers.js';
import {
  FutureCallDataError,
  FutureCallOptionsError,
  FutureCallTimeError,
} from '../contract/future-call.errors.js';
import { refuseUnknown, requireObject } from '../module/future-call.option-readers.js';
import { dataSourceOf } from '../tables/future-call.data-source.js';

// What a user passes to the service, read once and refused early: with an error of ours, naming the value and the cure.

const EARLIEST = Date.parse('0001-01-01T00:00:00.000Z');
const LATEST = Date.parse('9999-12-31T23:59:59.999Z');

export function requireOptions(method: string, options: object, known: string[]): void {
  requireObject(`${method}()`, options, `, such as { ${known[0]} }`);
  refuseUnknown(`${method}()`, options, known);
  const { manager } = options as { manager?: unknown };
  if (manager !== undefined && !isManager(manager)) {
    throw new FutureCallOptionsError(
      `manager must be the EntityManager of your transaction, but it is ${show(manager)}: dataSource.transaction((manager) => …) gives you one.`,
    );
  }
}

/**
 * By what it has, not by its class: it may be a proxy, as nestjs-cls makes one. A query runner has a manager, and a
 * client of pg no transactions.
 */
function isManager(value: unknown): boolean {
  if (typeof value !== 'object' || value === null || 'manager' in value) return false;
  const manager = value as EntityManager;
  return (
    typeof manager.query === 'function' &&
    typeof manager.transaction === 'function' &&
    // Not there in what only looks like one.
    Boolean(dataSourceOf(manager))
  );
}

export function requireIdentifier(identifier: unknown): asserts identifier is string {
  const problem = labelProblem(identifier);
  if (problem === undefined) return;
  const isNumber = typeof identifier === 'number' || typeof identifier === 'bigint';
  throw new FutureCallOptionsError(
    `The identifier ${show(identifier)} ${problem}. An identifier is a string of 1 to 255 characters${isNumber ? `: pass String(${show(identifier)})` : ''}.`,
  );
}

export function readIdentifier(identifier: unknown): string | null {
  if (identifier === undefined || identifier === null) return null;
  requireIdentifier(identifier);
  return identifier;
}

export function readData(data: unknown): string | null {
  try {
    return toJson(data);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    // The cause is what a toJSON() or a getter of the user's has thrown.
    throw new FutureCallDataError(error.message, 'cause' in error ? { cause: error.cause } : undefined);
  }
}

export function readDelay(delay: unknown): ParsedDelay {
  if (types.isDate(delay)) {
    throw new FutureCallTimeError(
      `delay: ${show(delay)} is not a length of time. Use callAtTime(), or time in callMany(), for a Date.`,
    );
  }
  let parsed: ParsedDelay;
  try {
    parsed = parseDelay(delay);
  } catch (error) {
    if (error instanceof RangeError) throw new FutureCallTimeError(error.message);
    throw error;
  }
  const due = new Date(wallClock());
  due.setUTCMonth(due.getUTCMonth() + parsed.months);
  // Invalid is too far, too.
  if (!(due.getTime() + parsed.milliseconds <= LATEST)) {
    throw new FutureCallTimeError(`A delay of ${show(delay)} leads beyond the year 9999.`);
  }
  return parsed;
}

export function readTime(time: unknown): number {
  if (!types.isDate(time)) {
    throw new FutureCallTimeError(
      typeof time === 'string'
        ? `A time must be a Date, but it is ${show(time)}. Pass new Date(${show(time)}), or use callWithDelay() for a delay.`
        : `A time must be a Date, but it is ${show(time)}. Use callWithDelay() for a delay.`,
    );
  }
  const at = Date.prototype.getTime.call(time);
  if (Number.isNaN(at))
    throw new FutureCallTimeError(`The time is an Invalid Date: what was parsed was no date.`);
  if (at < EARLIEST || at > LATEST) {
    throw new FutureCallTimeError(`The time ${show(time)} lies outside the years 1 to 9999.`);
  }
  return at;
}
