import { show } from '../common/show.js';
import type { RunDueOptions } from '../contract/future-call.control-types.js';
import { FutureCallOptionsError } from '../contract/future-call.errors.js';
import type { DueRunRequest } from '../engine/future-call.runner.js';
import type { FutureCallRegistry } from '../handlers/future-call.registry.js';
import {
  durationBetween,
  refuseUnknown,
  requireObject,
  wholeNumberTo,
} from '../module/future-call.option-readers.js';

const DAY = 86_400_000;
const limit = wholeNumberTo(1_000_000_000);
const duration = durationBetween(1, DAY);
/** The longest that a timer takes, in milliseconds: 24 days. */
const FOREVER = 2 ** 31 - 1;

/** Reads the options of `runDue`. Throws `FutureCallOptionsError`, or `UnknownFutureCallError` for a handler. */
export function readRunDue(options: RunDueOptions, registry: FutureCallRegistry): DueRunRequest {
  requireObject('runDue()', options);
  refuseUnknown('runDue()', options, ['handlers', 'limit', 'for']);
  return {
    names: options.handlers === undefined ? undefined : namesOf(options.handlers, registry),
    limit: options.limit === undefined ? Infinity : limit(`runDue()'s limit`, options.limit),
    duration: options.for === undefined ? FOREVER : duration(`runDue()'s for`, options.for),
  };
}

/** Each once. */
function namesOf(handlers: unknown, registry: FutureCallRegistry): string[] {
  if (!Array.isArray(handlers)) {
    throw new FutureCallOptionsError(
      `runDue()'s handlers must be an array of classes and names, but it is ${show(handlers)}.`,
    );
  }
  const names = Array.from(handlers as readonly unknown[], (handler) => {
    const name = registry.nameOf(handler);
    registry.requireKnown(name, handler);
    return name;
  });
  return [...new Set(names)];
}
