import { Injectable } from '@nestjs/common';
import type { Observable } from 'rxjs';
import type { Delay } from '../common/duration.js';
import { FutureCallEvents, type FutureCallEvent } from '../contract/future-call.events.js';
import type {
  CallManyOptions,
  CancelOptions,
  FutureCallData,
  FutureCallHandlerClass,
  NewFutureCall,
  ScheduledFutureCall,
  ScheduleOptions,
} from '../contract/future-call.types.js';
import { FutureCallCanceller } from './future-call.canceller.js';
import { readDelay, readTime, requireIdentifier, requireOptions } from './future-call.input.js';
import { FutureCallReader } from './future-call.reader.js';
import { FutureCallScheduler } from './future-call.scheduler.js';

/** Schedules calls and cancels them. Inject it anywhere: the module is global. */
@Injectable()
export class FutureCallService {
  constructor(
    private readonly reader: FutureCallReader,
    private readonly scheduler: FutureCallScheduler,
    private readonly canceller: FutureCallCanceller,
    private readonly sink: FutureCallEvents,
  ) {}

  /**
   * What happens to calls in this process, and what its instance finds: hot, typed by `type`. Each process sees its
   * own part; what lasts is in the tables.
   */
  get events(): Observable<FutureCallEvent> {
    return this.sink.observable;
  }

  /**
   * Schedules a call that is due after a delay, counted from now by the database's clock, also inside a transaction.
   *
   * @param handler a handler's class (then the type of `data` is checked) or its name
   * @param data anything that JSON can carry; `undefined` is null
   * @param delay milliseconds, a string such as `'90m'` (the `ms` library's syntax), or units:
   * `{ months: 1, days: 2 }`. Months and years are the calendar's, in UTC. 0 runs at once; not negative.
   * @throws FutureCallTimeError, FutureCallDataError, FutureCallOptionsError, FutureCallHandlerError (a class without
   * `@FutureCall`), UnknownFutureCallError (no handler of that name here; see `unknownNames`). Errors of the database
   * come as TypeORM throws them.
   */
  async callWithDelay<H extends FutureCallHandlerClass>(
    handler: H,
    data: FutureCallData<H>,
    delay: Delay,
    options?: ScheduleOptions,
  ): Promise<ScheduledFutureCall>;
  async callWithDelay(
    name: string,
    data: unknown,
    delay: Delay,
    options?: ScheduleOptions,
  ): Promise<ScheduledFutureCall>;
  async callWithDelay(
    handler: string | FutureCallHandlerClass,
    data: unknown,
    delay: Delay,
    options: ScheduleOptions = {},
  ): Promise<ScheduledFutureCall> {
    requireOptions('callWithDelay', options, ['identifier', 'manager']);
    const call = this.reader.read(handler, data, readDelay(delay), options.identifier);
    return this.scheduler.schedule(call, options.manager);
  }

  /**
   * Schedules a call that is due at a time. One in the past runs at once.
   *
   * @param handler a handler's class (then the type of `data` is checked) or its name
   * @param data anything that JSON can carry; `undefined` is null
   * @param time from the year 1 to 9999
   * @throws as `callWithDelay`
   */
  async callAtTime<H extends FutureCallHandlerClass>(
    handler: H,
    data: FutureCallData<H>,
    time: Date,
    options?: ScheduleOptions,
  ): Promise<ScheduledFutureCall>;
  async callAtTime(
    name: string,
    data: unknown,
    time: Date,
    options?: ScheduleOptions,
  ): Promise<ScheduledFutureCall>;
  async callAtTime(
    handler: string | FutureCallHandlerClass,
    data: unknown,
    time: Date,
    options: ScheduleOptions = {},
  ): Promise<ScheduledFutureCall> {
    requireOptions('callAtTime', options, ['identifier', 'manager']);
    const call = this.reader.read(handler, data, readTime(time), options.identifier);
    return this.scheduler.schedule(call, options.manager);
  }

  /**
   * Schedules many calls at once: all of them or none, a statement per few thousand, at most one notification.
   *
   * @param calls each with `handler` (class or name), `delay` or `time`, and optionally `data` and `identifier`, as
   * `callWithDelay` and `callAtTime` take them
   * @returns the scheduled calls, in the order given
   * @throws as `callWithDelay`; the message says which of the calls
   */
  async callMany<const H extends readonly (string | FutureCallHandlerClass)[]>(
    calls: readonly [...{ [K in keyof H]: NewFutureCall<H[K]> }],
    options: CallManyOptions = {},
  ): Promise<ScheduledFutureCall[]> {
    requireOptions('callMany', options, ['manager']);
    return this.scheduler.scheduleMany(this.reader.readMany(calls), options.manager);
  }

  /**
   * Cancels every pending call with that identifier. A call that an instance has claimed counts as started: it goes
   * on, and is not counted.
   *
   * @returns how many were cancelled
   * @throws FutureCallOptionsError for an identifier that none can have, null and undefined among them
   */
  async cancel(identifier: string, options: CancelOptions = {}): Promise<number> {
    requireIdentifier(identifier);
    requireOptions('cancel', options, ['manager']);
    return this.canceller.cancel(identifier, options.manager);
  }
}
