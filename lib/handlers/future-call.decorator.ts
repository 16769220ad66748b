import { types } from 'node:util';
import { DiscoveryService } from '@nestjs/core';
import { LONGEST_BACKOFF } from '../common/duration.js';
import { show } from '../common/show.js';
import { labelProblem } from '../common/text.js';
import { FutureCallHandlerError, FutureCallOptionsError } from '../contract/future-call.errors.js';
import {
  attempts,
  concurrency,
  durationBetween,
  refuseUnknown,
  requireObject,
} from '../module/future-call.option-readers.js';
import type {
  FutureCallBackoff,
  FutureCallData,
  FutureCallHandlerClass,
  FutureCallHandlerOptions,
  JsonForm,
} from '../contract/future-call.types.js';

/** What `@FutureCall()` writes on a class. */
export interface FutureCallMark {
  readonly name: string;
  readonly options: FutureCallHandlerOptions;
}

/** The class, if its `data` is what JSON carries; else a type that says in the compiler's message what is wrong. */
type WithJsonData<C extends FutureCallHandlerClass> = [FutureCallData<C>] extends [
  JsonForm<FutureCallData<C>>,
]
  ? C
  : C & {
      'data arrives as JSON: a Date is a string there, and a Map, a bigint or a function cannot be in it': never;
    };

/** Where the mark is kept, and what makes Nest's discovery find the class. */
export const FutureCallMetadata = DiscoveryService.createDecorator<FutureCallMark>();

/**
 * Marks a provider class as the handler of the calls of that name. Add the class to the `providers` of any module;
 * its constructor is injected as usual, and no `@Injectable()` is needed (write one to choose a scope).
 *
 * @param name 1 to 255 characters, unique in the app. It is stored with every call: renaming it leaves the calls
 * that are already scheduled without a handler.
 * @throws FutureCallHandlerError for a bad name, FutureCallOptionsError for a bad option, when the class is loaded.
 */
export function FutureCall(name: string, options: FutureCallHandlerOptions = {}) {
  return <C extends FutureCallHandlerClass>(target: WithJsonData<C>): void => {
    if (typeof target !== 'function') {
      throw new FutureCallHandlerError(
        `@FutureCall(${show(name)}) marks a class, and this is ${show(target)}.`,
      );
    }
    const problem = labelProblem(name);
    if (problem !== undefined) {
      throw new FutureCallHandlerError(
        `@FutureCall(${show(name)}) on ${target.name}: the name ${problem}. Give it a name of 1 to 255 characters.`,
      );
    }
    const owner = `@FutureCall('${name}') on ${target.name}`;
    const other = futureCallMark(target);
    if (other !== undefined) {
      throw new FutureCallHandlerError(
        `${owner}: the class is marked @FutureCall('${other.name}') already. Write a class for each name; one may extend the other.`,
      );
    }
    requireObject(owner, options);
    refuseUnknown(owner, options, ['concurrency', 'attempts', 'backoff']);
    if (options.concurrency !== undefined) concurrency(`${owner}: concurrency`, options.concurrency);
    if (options.attempts !== undefined) attempts(`${owner}: attempts`, options.attempts);
    if (options.backoff !== undefined) requireBackoff(`${owner}: backoff`, options.backoff);
    FutureCallMetadata({ name, options })(target);
  };
}

const anyDelay = durationBetween(0, LONGEST_BACKOFF);

function requireBackoff(name: string, backoff: FutureCallBackoff): void {
  if (types.isAsyncFunction(backoff)) {
    throw new FutureCallOptionsError(
      `${name} is an async function, and must answer at once. Let the handler throw RetryError for what takes time.`,
    );
  }
  if (typeof backoff === 'function') return;
  const type = (backoff as { type?: unknown } | null)?.type;
  if (type !== 'fixed' && type !== 'exponential') {
    throw new FutureCallOptionsError(
      `${name} must be { type: 'fixed', delay }, { type: 'exponential', delay?, max? } or a function, but it is ${show(backoff)}.`,
    );
  }
  refuseUnknown(name, backoff, type === 'fixed' ? ['type', 'delay'] : ['type', 'delay', 'max']);
  if (backoff.type === 'fixed' || backoff.delay !== undefined) anyDelay(`${name}.delay`, backoff.delay);
  if (backoff.type === 'exponential' && backoff.max !== undefined) anyDelay(`${name}.max`, backoff.max);
}

/** The mark of a class, or undefined when it has none of its own. */
export function futureCallMark(target: object): FutureCallMark | undefined {
  return Reflect.getOwnMetadata(FutureCallMetadata.KEY, target) as FutureCallMark | undefined;
}
