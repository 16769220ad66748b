import { DiscoveryService } from '@nestjs/core';
import { show } from './common/show.js';
import { labelProblem } from './common/text.js';
import { FutureCallHandlerError } from './future-call.errors.js';
import { concurrency, refuseUnknown, requireObject } from './future-call.options.js';
import type {
  FutureCallData,
  FutureCallHandlerClass,
  FutureCallHandlerOptions,
  JsonForm,
} from './future-call.types.js';

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
    const problem = labelProblem(name);
    if (problem !== undefined) {
      throw new FutureCallHandlerError(
        `@FutureCall(${show(name)}) on ${target.name}: the name ${problem}. Give it a name of 1 to 255 characters.`,
      );
    }
    const owner = `@FutureCall('${name}') on ${target.name}`;
    requireObject(owner, options);
    refuseUnknown(owner, options, ['concurrency']);
    if (options.concurrency !== undefined) concurrency(`${owner}: concurrency`, options.concurrency);
    FutureCallMetadata({ name, options })(target);
  };
}

/** The mark of a class, or undefined when it has none of its own. */
export function futureCallMark(target: object): FutureCallMark | undefined {
  return Reflect.getOwnMetadata(FutureCallMetadata.KEY, target) as FutureCallMark | undefined;
}
