import { Inject, Injectable } from '@nestjs/common';
import type { Observable } from 'rxjs';
import type { DataSource, EntityManager } from 'typeorm';
import { parseDelay, type Delay, type ParsedDelay } from './common/duration.js';
import { toJson } from './common/json.js';
import { show } from './common/show.js';
import { labelProblem } from './common/text.js';
import { FutureCallRegistry } from './discovery/future-call.registry.js';
import { FutureCallEvents, type FutureCallEvent } from './future-call.events.js';
import { FutureCallDataError, FutureCallOptionsError, FutureCallTimeError } from './future-call.errors.js';
import {
  FUTURE_CALL_DATA_SOURCE,
  FUTURE_CALL_OPTIONS,
  refuseUnknown,
  requireObject,
  type ResolvedOptions,
} from './future-call.options.js';
import type {
  CancelOptions,
  FutureCallData,
  FutureCallHandlerClass,
  ScheduledFutureCall,
  ScheduleOptions,
} from './future-call.types.js';
import { FutureCallWake } from './future-call.wake.js';
import { FutureCallServiceStore } from './store/future-call.service-store.js';

const EARLIEST = Date.parse('0001-01-01T00:00:00.000Z');
const LATEST = Date.parse('9999-12-31T23:59:59.999Z');

const LONGEST_MONTH = 31 * 86_400_000;

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
    const due = readDelay(delay);
    return this.schedule(
      'callWithDelay',
      handler,
      data,
      due,
      due.months === 0 && due.milliseconds === 0,
      options,
    );
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
    const due = readTime(time);
    return this.schedule('callAtTime', handler, data, due, due <= Date.now(), options);
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

  private async schedule(
    method: string,
    handler: string | FutureCallHandlerClass,
    data: unknown,
    due: ParsedDelay | number,
    isDueNow: boolean,
    options: ScheduleOptions,
  ): Promise<ScheduledFutureCall> {
    requireOptions(method, options, ['identifier', 'manager']);
    const name = this.nameOf(handler);
    const identifier = options.identifier ?? null;
    if (identifier !== null) requireIdentifier(identifier);
    const call = { name, identifier, data: readData(data), due };
    const manager = this.ownManager(options.manager);

    // typeorm-transactional keeps an ambient transaction behind `dataSource.manager`.
    const mayCommitLate = (manager ?? this.dataSource.manager).queryRunner?.isTransactionActive === true;
    const wakesItself = !mayCommitLate && isDueNow && this.wake.canClaim(name);
    const { id, dueAt } = await this.store.schedule(
      call,
      mayCommitLate ? 'always' : wakesItself ? 'never' : 'soon',
      manager,
    );
    if (wakesItself) this.wake.scheduled(name, dueAt);
    const scheduled = { id, name, identifier, dueAt: new Date(dueAt) };
    if (this.sink.observed) this.sink.emit({ type: 'scheduled', ...scheduled });
    return scheduled;
  }

  private nameOf(handler: unknown): string {
    if (typeof handler === 'function') {
      const name = this.registry.nameOf(handler);
      this.requireKnown(name);
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

  private requireKnown(name: string): void {
    if (this.options.execute && this.options.unknownNames === 'refuse') this.registry.requireKnown(name);
  }

  /** The caller's manager, if it is one of our data source: a call in another database would be lost. */
  private ownManager(manager: EntityManager | undefined): EntityManager | undefined {
    if (manager === undefined || manager.dataSource === this.dataSource) return manager;
    throw new FutureCallOptionsError(
      `The manager belongs to another data source than the one that FutureCallModule uses. Pass a manager of that one, or none.`,
    );
  }
}

function requireOptions(method: string, options: object, known: string[]): void {
  requireObject(`${method}()`, options);
  refuseUnknown(`${method}()`, options, known);
  const { manager } = options as { manager?: unknown };
  if (
    manager !== undefined &&
    (typeof manager !== 'object' || manager === null || !('dataSource' in manager))
  ) {
    throw new FutureCallOptionsError(
      `manager must be the EntityManager of your transaction, but it is ${show(manager)}: dataSource.transaction((manager) => …) gives you one.`,
    );
  }
}

function requireIdentifier(identifier: unknown): void {
  const problem = labelProblem(identifier);
  if (problem === undefined) return;
  throw new FutureCallOptionsError(
    `The identifier ${show(identifier)} ${problem}. An identifier is a string of 1 to 255 characters.`,
  );
}

function readData(data: unknown): string | null {
  try {
    return toJson(data);
  } catch (error) {
    // What else a toJSON() or a getter of the user's throws is the user's.
    if (error instanceof RangeError) throw new FutureCallDataError(error.message, { cause: error });
    throw error;
  }
}

function readDelay(delay: unknown): ParsedDelay {
  let parsed: ParsedDelay;
  try {
    parsed = parseDelay(delay);
  } catch (error) {
    if (error instanceof RangeError) throw new FutureCallTimeError(error.message, { cause: error });
    throw error;
  }
  if (Date.now() + parsed.months * LONGEST_MONTH + parsed.milliseconds > LATEST) {
    throw new FutureCallTimeError(`A delay of ${show(delay)} leads beyond the year 9999.`);
  }
  return parsed;
}

function readTime(time: unknown): number {
  if (!(time instanceof Date)) {
    throw new FutureCallTimeError(
      `A time must be a Date, but it is ${show(time)}. Use callWithDelay() for a delay.`,
    );
  }
  const at = time.getTime();
  if (Number.isNaN(at))
    throw new FutureCallTimeError(`The time is an Invalid Date: what was parsed was no date.`);
  if (at < EARLIEST || at > LATEST) {
    throw new FutureCallTimeError(`The time ${show(time)} lies outside the years 1 to 9999.`);
  }
  return at;
}
