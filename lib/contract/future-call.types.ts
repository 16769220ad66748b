import type { EntityManager } from 'typeorm';
import type { Delay, Duration } from '../common/duration.js';

/**
 * What survives the way through JSON unchanged. A type with a `Date`, a `Map`, a `bigint` or a function in it is
 * not its own JSON form: a `Date` arrives as a string, so the handler's `data` says `string`.
 */
export type JsonForm<T> = T extends string | number | boolean | null | undefined | void
  ? T
  : T extends bigint | symbol | Date | RegExp | Error | ArrayBufferLike | ArrayBufferView | Promise<unknown>
    ? never
    : T extends ReadonlyMap<unknown, unknown> | ReadonlySet<unknown>
      ? never
      : T extends (...args: never[]) => unknown
        ? never
        : T extends unknown[]
          ? JsonFormOfArray<T, JsonForm<T[number]>[]>
          : T extends readonly unknown[]
            ? JsonFormOfArray<T, readonly JsonForm<T[number]>[]>
            : T extends object
              ? { [K in keyof T]: JsonForm<T[K]> }
              : unknown extends T
                ? T
                : never;

/** Mapping an array maps its elements at once, without end for a type that contains itself: only tuples are mapped. */
type JsonFormOfArray<T extends readonly unknown[], A> = number extends T['length']
  ? A
  : { [K in keyof T]: JsonForm<T[K]> };

/** What a handler learns about the call it runs. */
export interface FutureCallContext {
  /** The call's id: a decimal number as a string, unique for ever. */
  readonly id: string;
  /** The handler's name. */
  readonly name: string;
  /** The identifier it was scheduled with, or null. */
  readonly identifier: string | null;
  /** When the call was due, by the database's clock. */
  readonly dueAt: Date;
  /** Which start of this call it is, counted from 1. */
  readonly attempt: number;
  /**
   * Aborted when the call should end early: its instance shuts down and `shutdownTimeout` is over, or the instance
   * was taken for dead and the call may have been given to another one.
   */
  readonly signal: AbortSignal;
}

/**
 * A provider marked `@FutureCall('name')`. `T` is the type of `data` as it arrives: its JSON form, so without a
 * `Date` in it. The decorator refuses other types.
 */
export interface FutureCallHandler<T = unknown> {
  /** Runs the call. It has completed when the promise resolves, and failed when it rejects. */
  invoke(data: T, call: FutureCallContext): unknown;
}

/** A handler's class, as scheduling takes it. */
export type FutureCallHandlerClass = abstract new (...args: never[]) => FutureCallHandler<never>;

/** The type of `data` that a handler's class takes. A handler without parameters takes `null` or `undefined`. */
export type FutureCallData<H extends FutureCallHandlerClass> =
  Parameters<InstanceType<H>['invoke']> extends []
    ? null | undefined
    : Parameters<InstanceType<H>['invoke']>[0];

/** Options of `@FutureCall(name, options)`. */
export interface FutureCallHandlerOptions {
  /**
   * How many calls of this handler run at one time in one process; each `runDue()` has slots of its own. The module's
   * `concurrency` is shared by all handlers; only this limit keeps a slow handler from taking every slot.
   *
   * @default the module's `concurrency`
   */
  concurrency?: number;
  /**
   * How many times a call is started at most. More than one makes the handler at-least-once: **it must be safe to
   * repeat**, because an attempt that fails, or whose process dies, is followed by another one even if its work was
   * done. From 1 to 1,000.
   *
   * @default 1
   */
  attempts?: number;
  /**
   * How long to wait before the next attempt. After an interruption the default applies, whatever is set here: the
   * process that finds it may not have the handler. Calls that were interrupted together come back up to ten times as far
   * apart: one of them may have killed their process.
   *
   * @default { type: 'exponential', delay: 1_000, max: '1h' }
   */
  backoff?: FutureCallBackoff;
}

/** How long to wait before the next attempt. */
export type FutureCallBackoff =
  /** Always the same. */
  | { type: 'fixed'; delay: Duration }
  /** Twice as long each time, from `delay` (1 s) to `max` (1 hour); the last half of it at random. */
  | { type: 'exponential'; delay?: Duration; max?: Duration }
  /**
   * What the function answers, at once, for the attempt that failed (counted from 1) and what it threw. If it throws, or
   * answers no length of time, a negative one or a promise, an error is logged and the default applies.
   */
  | ((attempt: number, error: unknown) => Duration);

/** Options of `callWithDelay` and `callAtTime`. */
export interface ScheduleOptions {
  /** A label to cancel by, 1 to 255 characters. Calls may share it. */
  identifier?: string | null;
  /** The `EntityManager` of your transaction: the call exists if and only if it commits. */
  manager?: EntityManager;
}

/** `data` may be left out where it may be null or undefined. */
type WithData<D> = null extends D ? { data?: D } : undefined extends D ? { data?: D } : { data: D };

/** One of the calls that `callMany` takes. Given a handler's class, the type of `data` is checked. */
export type NewFutureCall<H extends string | FutureCallHandlerClass> = {
  /** A label to cancel by, 1 to 255 characters. Calls may share it. */
  identifier?: string | null;
} & (H extends FutureCallHandlerClass
  ? { handler: H } & WithData<FutureCallData<H>>
  : { handler: H; data?: unknown }) &
  ({ delay: Delay; time?: undefined } | { time: Date; delay?: undefined });

/** Options of `callMany`. */
export interface CallManyOptions {
  /** The `EntityManager` of your transaction: the calls exist if and only if it commits. */
  manager?: EntityManager;
}

/** Options of `cancel`. */
export interface CancelOptions {
  /** The `EntityManager` of your transaction: the calls are cancelled if and only if it commits. */
  manager?: EntityManager;
}

/** A call that was accepted. */
export interface ScheduledFutureCall {
  /** Its id: a decimal number as a string, unique for ever. */
  readonly id: string;
  /** The handler's name. */
  readonly name: string;
  /** The identifier it was scheduled with, or null. */
  readonly identifier: string | null;
  /** When it is due, by the database's clock, in whole milliseconds. */
  readonly dueAt: Date;
}

/** How a call ended. */
export type FutureCallOutcome = 'completed' | 'failed' | 'interrupted' | 'cancelled';

/** What is kept of an attempt that did not complete. */
export interface FutureCallErrorRecord {
  /** Which attempt it was, counted from 1. */
  attempt: number;
  /** When it ended: ISO 8601, UTC. */
  at: string;
  /** The error's name, or the type of what was thrown. */
  name: string;
  /** Never empty: of an error without one it is the messages of its inner errors, or its code. */
  message: string;
  /** The error's `code`, where it has one: `ECONNREFUSED`, `23505`. */
  code?: string;
  stack?: string;
  /** The error's own cause, and so on, a few levels deep. */
  cause?: Omit<FutureCallErrorRecord, 'attempt' | 'at'>;
  /** The first inner errors of an `AggregateError`. */
  errors?: Omit<FutureCallErrorRecord, 'attempt' | 'at'>[];
}
