import { Injectable } from '@nestjs/common';
import { show } from '../common/show.js';
import { futureCallMark } from './future-call.decorator.js';
import { FutureCallHandlerError, UnknownFutureCallError } from '../contract/future-call.errors.js';
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

  /** The name that a handler's class was marked with. Throws `FutureCallHandlerError` when it was not. */
  nameOf(target: object): string {
    const mark = futureCallMark(target);
    if (mark !== undefined) return mark.name;
    throw new FutureCallHandlerError(
      `${show(target)} is no handler: it is not marked @FutureCall('name'). Mark it, or schedule by a handler's name.`,
    );
  }

  /** Throws `UnknownFutureCallError`, with the names that are known. `target`: the class that was given, if one was. */
  requireKnown(name: string, target?: { readonly name: string }): void {
    // While the app boots there may be more of them every time, as factories make them.
    const handlers = this.found ?? this.explorer.explore();
    if (handlers.has(name)) return;
    const known = [...handlers.keys()].toSorted().map((one) => `"${one}"`);
    throw new UnknownFutureCallError(
      `No handler for "${name}". ` +
        (target === undefined
          ? `Add @FutureCall('${name}') to a provider class and the class to a module's providers, `
          : `Add ${target.name} to a module's providers, `) +
        `or set unknownNames: 'accept' if it runs in another process. ` +
        `Known here: ${known.length === 0 ? 'none' : known.join(', ')}.`,
    );
  }
}
