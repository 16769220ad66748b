import { Inject, Injectable } from '@nestjs/common';
import { show } from '../common/show.js';
import { FutureCallError, FutureCallOptionsError } from '../contract/future-call.errors.js';
import type { NewFutureCall } from '../contract/future-call.types.js';
import { FutureCallRegistry } from '../handlers/future-call.registry.js';
import { refuseUnknown, requireObject } from '../module/future-call.option-readers.js';
import { FUTURE_CALL_OPTIONS, type ResolvedOptions } from '../module/future-call.options.js';
import type { NewCall } from '../store/future-call.service-store.js';
import { readData, readDelay, readIdentifier, readTime } from './future-call.input.js';

/** Reads calls as users describe them, and refuses what cannot be stored or run. */
@Injectable()
export class FutureCallReader {
  constructor(
    @Inject(FUTURE_CALL_OPTIONS) private readonly options: ResolvedOptions,
    private readonly registry: FutureCallRegistry,
  ) {}

  read(handler: unknown, data: unknown, due: NewCall['due'], identifier: unknown): NewCall {
    return { name: this.nameOf(handler), identifier: readIdentifier(identifier), data: readData(data), due };
  }

  /** Those of `callMany`. What is thrown says which of them it is. */
  readMany(calls: unknown): NewCall[] {
    if (!Array.isArray(calls)) {
      throw new FutureCallOptionsError(`callMany() takes an array of calls, not ${show(calls)}.`);
    }
    // Not map(), which passes over holes.
    return Array.from(calls as readonly NewFutureCall<string>[], (call, i) => this.readOneOfMany(call, i));
  }

  private readOneOfMany(call: NewFutureCall<string>, index: number): NewCall {
    try {
      requireObject('A call', call);
      refuseUnknown('A call', call, ['handler', 'data', 'delay', 'time', 'identifier']);
      requireDelayOrTime(call);
      const due = call.time === undefined ? readDelay(call.delay) : readTime(call.time);
      return this.read(call.handler, call.data, due, call.identifier);
    } catch (error) {
      if (error instanceof FutureCallError) sayWhich(error, index);
      throw error;
    }
  }

  private nameOf(handler: unknown): string {
    const name = this.registry.nameOf(handler);
    if (this.options.execute && this.options.unknownNames === 'refuse') {
      this.registry.requireKnown(
        name,
        handler,
        `, or set unknownNames: 'accept' if it runs in another process`,
      );
    }
    return name;
  }
}

/** In the stack, too: most loggers print that, and it begins with the message as it was. */
function sayWhich(error: FutureCallError, index: number): void {
  const { message, stack } = error;
  error.message = `calls[${index}]: ${message}`;
  if (stack !== undefined) error.stack = stack.replace(message, () => error.message);
}

function requireDelayOrTime({ delay, time }: { readonly delay?: unknown; readonly time?: unknown }): void {
  if ((delay === undefined) !== (time === undefined)) return;
  throw new FutureCallOptionsError(
    delay === undefined
      ? `The call has neither a delay nor a time: give it one, such as delay: '1h', or time: a Date.`
      : `The call has both a delay (${show(delay)}) and a time (${show(time)}): leave one of them out.`,
  );
}
