import { Inject, Injectable } from '@nestjs/common';
import type { Observable } from 'rxjs';
import type { DataSource, EntityManager } from 'typeorm';
import type { Delay } from '../common/duration.js';
import { show } from '../common/show.js';
import { labelProblem } from '../common/text.js';
import { FutureCallRegistry } from '../handlers/future-call.registry.js';
import { FutureCallError, FutureCallOptionsError } from '../contract/future-call.errors.js';
import { FutureCallEvents, type FutureCallEvent } from '../contract/future-call.events.js';
import {
  readData,
  readDelay,
  readIdentifier,
  readTime,
  requireIdentifier,
  requireOptions,
} from './future-call.input.js';
import { refuseUnknown, requireObject } from '../module/future-call.option-readers.js';
import {
  FUTURE_CALL_DATA_SOURCE,
  FUTURE_CALL_OPTIONS,
  type ResolvedOptions,
} from '../module/future-call.options.js';
import type {
  CallManyOptions,
  CancelOptions,
  FutureCallData,
  FutureCallHandlerClass,
  NewFutureCall,
  ScheduledFutureCall,
  ScheduleOptions,
} from '../contract/future-call.types.js';
import { FutureCallWake } from '../contract/future-call.wake.js';
import { FutureCallServiceStore, type NewCall } from '../store/future-call.service-store.js';

/** Schedules calls and cancels them. Inject it anywhere: the module is global. */
@Injectable()
export class FutureCallService {
  constructor(
    @Inject(FUTURE_CALL_DATA_SOURCE) private readonly dataSource: DataSource,
    @Inject(FUTURE_CALL_OPTIONS) private readonly options: ResolvedOptions,
    private readonly registry: FutureCallRegistry,
    private readonly store: FutureCallServiceStore,
    private readonly wake: FutureCallWake,
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
    return this.schedule(this.read(handler, data, readDelay(delay), options.identifier), options.manager);
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
    return this.schedule(this.read(handler, data, readTime(time), options.identifier), options.manager);
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
    if (!Array.isArray(calls)) {
      throw new FutureCallOptionsError(`callMany() takes an array of calls, not ${show(calls)}.`);
    }
    // Not map(), which passes over holes.
    const read = Array.from(calls as readonly NewFutureCall<string>[], (call, i) =>
      this.readOneOfMany(call, i),
    );
    if (read.length === 0) return [];
    const manager = this.ownManager(options.manager);
    const scheduled = await this.store.scheduleMany(
      read,
      this.isInTransaction(manager) ? 'always' : 'soon',
      manager,
    );
    return scheduled.map(({ id, dueAt }, i) => this.accepted(read[i]!, id, dueAt));
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
    const cancelled = await this.store.cancel(identifier, this.ownManager(options.manager));
    if (this.sink.observed) {
      for (const { id, name } of cancelled) this.sink.emit({ type: 'cancelled', id, name, identifier });
    }
    return cancelled.length;
  }

  private async schedule(call: NewCall, given: EntityManager | undefined): Promise<ScheduledFutureCall> {
    const manager = this.ownManager(given);
    const mayCommitLate = this.isInTransaction(manager);
    const wakesItself = !mayCommitLate && isDueNow(call.due) && this.wake.reserve(call.name);
    const notify = mayCommitLate ? 'always' : wakesItself ? 'never' : 'soon';
    const { id, dueAt } = await this.store.schedule(call, notify, manager).catch((error: unknown) => {
      if (wakesItself) this.wake.giveBack(call.name);
      throw error;
    });
    if (wakesItself) this.wake.scheduled(call.name, dueAt);
    return this.accepted(call, id, dueAt);
  }

  private accepted({ name, identifier }: NewCall, id: string, dueAt: number): ScheduledFutureCall {
    const scheduled = { id, name, identifier, dueAt: new Date(dueAt) };
    if (this.sink.observed) this.sink.emit({ type: 'scheduled', ...scheduled });
    return scheduled;
  }

  private read(handler: unknown, data: unknown, due: NewCall['due'], identifier: unknown): NewCall {
    return { name: this.nameOf(handler), identifier: readIdentifier(identifier), data: readData(data), due };
  }

  /**
   * A manager with a connection of its own may be in a transaction, of which TypeORM knows nothing if it was begun in
   * SQL. typeorm-transactional keeps an ambient one behind `dataSource.manager`.
   */
  private isInTransaction(manager = this.dataSource.manager): boolean {
    return manager.queryRunner !== undefined;
  }

  private nameOf(handler: unknown): string {
    if (typeof handler === 'function') {
      const name = this.registry.nameOf(handler);
      this.requireKnown(name, handler);
      return name;
    }
    const problem = labelProblem(handler);
    if (problem !== undefined) {
      throw new FutureCallOptionsError(
        `The handler of a call is its class or its name, but ${show(handler)} ${problem}. Pass the class, or a name of 1 to 255 characters.`,
      );
    }
    this.requireKnown(handler as string);
    return handler as string;
  }

  private requireKnown(name: string, target?: { readonly name: string }): void {
    if (!this.options.execute || this.options.unknownNames === 'accept') return;
    this.registry.requireKnown(name, target);
  }

  /** The caller's manager, if it is one of our data source: a call in another database would be lost. */
  private ownManager(manager: EntityManager | undefined): EntityManager | undefined {
    if (manager === undefined) return undefined;
    if (manager.dataSource !== this.dataSource) {
      throw new FutureCallOptionsError(
        `The manager belongs to another data source than the one that FutureCallModule uses. Pass a manager of that one, or none.`,
      );
    }
    if (manager.queryRunner?.isReleased === true) {
      throw new FutureCallOptionsError(
        `The manager's transaction is over. Await scheduling and cancelling inside of the transaction.`,
      );
    }
    return manager;
  }
}

/** A time is not compared with this process's clock: it may be wrong. */
function isDueNow(due: NewCall['due']): boolean {
  return typeof due !== 'number' && due.months === 0 && due.milliseconds === 0;
}
