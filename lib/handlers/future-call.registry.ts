import { Injectable } from '@nestjs/common';
import { show } from '../common/show.js';
import { labelProblem, onOneLine, quoted } from '../common/text.js';
import { futureCallMark } from './future-call.decorator.js';
import {
  FutureCallHandlerError,
  FutureCallOptionsError,
  UnknownFutureCallError,
} from '../contract/future-call.errors.js';
import { FutureCallExplorer, type RegisteredHandler } from './future-call.explorer.js';

/** The handlers of this process by name. */
@Injectable()
export class FutureCallRegistry {
  private found?: Map<string, RegisteredHandler>;

  constructor(private readonly explorer: FutureCallExplorer) {}

  /**
   * The handlers of the booted app, from here on: one that is loaded later would never get its calls. Throws
   * `FutureCallHandlerError` when a handler is declared wrongly.
   */
  get handlers(): ReadonlyMap<string, RegisteredHandler> {
    return (this.found ??= this.explorer.explore());
  }

  /**
   * The name of a handler that is given by its class or its name. Throws `FutureCallHandlerError` for a class without a
   * mark, `FutureCallOptionsError` for what can be no name.
   */
  nameOf(handler: unknown): string {
    if (typeof handler === 'function') return nameOfClass(handler);
    const problem = labelProblem(handler);
    if (problem === undefined) return handler as string;
    throw new FutureCallOptionsError(
      `The handler of a call is its class or its name, but ${show(handler)} ${problem}. Pass the class, or a name of 1 to 255 characters.`,
    );
  }

  /**
   * Throws `UnknownFutureCallError` for a name that no handler here has, with the names that are known.
   *
   * @param handler what the user gave: the class or the name
   * @param cure another cure than to add the handler, from its comma on
   */
  requireKnown(name: string, handler: unknown, cure = ''): void {
    // While the app boots there may be more of them every time, as factories make them.
    const handlers = this.found ?? this.explorer.explore();
    if (handlers.has(name)) return;
    const known = [...handlers.keys()].toSorted().map(quoted);
    throw new UnknownFutureCallError(
      `No handler for ${quoted(name)}. ` +
        (typeof handler === 'function'
          ? `Add ${handler.name} to a module's providers`
          : `Add @FutureCall('${onOneLine(name)}') to a provider class and the class to a module's providers`) +
        `${cure}. Known here: ${known.length === 0 ? 'none' : known.join(', ')}.`,
    );
  }
}

function nameOfClass(target: object): string {
  const mark = futureCallMark(target);
  if (mark !== undefined) return mark.name;
  throw new FutureCallHandlerError(
    `${show(target)} is no handler: it is not marked @FutureCall('name'). Mark it, or schedule by a handler's name.`,
  );
}
