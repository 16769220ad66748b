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
      if ((call.delay === undefined) === (call.time === undefined)) {
        throw new FutureCallOptionsError('A call has either a delay or a time.');
      }
      const due = call.time === undefined ? readDelay(call.delay) : readTime(call.time);
      return this.read(call.handler, call.data, due, call.identifier);
    } catch (error) {
      if (error instanceof FutureCallError) error.message = `calls[${index}]: ${error.message}`;
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
