import { AsyncResource } from 'node:async_hooks';
import { Inject, Injectable, Logger } from '@nestjs/common';
import { describeError } from '../common/describe-error.js';
import type { RegisteredHandler } from '../discovery/future-call.explorer.js';
import { FUTURE_CALL_OPTIONS, type ResolvedOptions } from '../future-call.options.js';
import { FutureCallEvents } from '../future-call.events.js';
import type { AttemptEnd, ClaimedCall, NextAttempt } from '../store/future-call.engine-store.js';
import { FutureCallSession } from '../store/future-call.session.js';
import { FutureCallAttempt } from './future-call.attempt.js';
import { FutureCallCompleter } from './future-call.completer.js';
import { DEFAULT_BACKOFF, exponential, nextAttempt } from './future-call.retry-policy.js';
import { RunningAttempts } from './future-call.running-attempts.js';
import { FutureCallSpeed } from './future-call.speed.js';

/** How much may be claimed now. */
export interface Capacity {
  readonly total: number;
  /** For one handler; never more than `total`. */
  of(name: string): number;
}

/** A handler, its claimed calls and its slots. */
interface HandlerState {
  readonly handler: RegisteredHandler;
  readonly limit: number;
  readonly speed: FutureCallSpeed;
  /** Claimed, not started: at most the prefetch. */
  queue: ClaimedCall[];
  running: number;
}

/** The most that is claimed ahead of free slots, over all handlers. */
export const MAX_PREFETCH = 4_000;

/** The most that starts in one turn of the event loop: handlers that wait for nothing would keep the app from it. */
const MOST_IN_A_TURN = 500;

/** Runs attempts: who may start, within the limits of the module and of each handler, and what becomes of it. */
@Injectable()
export class FutureCallExecutor {
  private readonly logger = new Logger('FutureCall');
  private readonly handlers = new Map<string, HandlerState>();
  private readonly attempts = new RunningAttempts();
  /** Calls of this instance that ended because they were told to: the drain gives them their outcome. */
  private readonly undecided: ClaimedCall[] = [];
  /** Handlers with a queue, in the order in which they take turns. */
  private waiting: HandlerState[] = [];
  private queued = 0;
  private startedInTurn = 0;
  private isStarting = false;
  private isStopped = false;
  private slotFreed: () => void = () => {};
  private becameIdle: () => void = () => {};

  constructor(
    @Inject(FUTURE_CALL_OPTIONS) private readonly options: ResolvedOptions,
    private readonly session: FutureCallSession,
    private readonly completer: FutureCallCompleter,
    private readonly events: FutureCallEvents,
  ) {}

  start(handlers: Iterable<RegisteredHandler>, slotFreed: () => void): void {
    this.slotFreed = slotFreed;
    for (const handler of handlers) {
      const limit = Math.min(
        handler.options.concurrency ?? this.options.concurrency,
        this.options.concurrency,
      );
      this.handlers.set(handler.name, {
        handler,
        limit,
        speed: new FutureCallSpeed(),
        queue: [],
        running: 0,
      });
    }
    this.completer.onConfirmed((ends) => this.confirmed(ends));
  }

  /** How many handlers run. */
  get running(): number {
    return this.attempts.size;
  }

  /** How many more calls of that handler would start at once. */
  freeSlots(name: string): number {
    const state = this.handlers.get(name);
    if (state === undefined) return 0;
    return Math.min(this.options.concurrency - this.running - this.queued, freeSlots(state));
  }

  /** What may be claimed now, or undefined when it is not worth a statement yet. */
  capacity(): Capacity | undefined {
    if (this.isStopped) return undefined;
    const now = performance.now();
    let ahead = 0;
    let spokenFor = 0;
    for (const state of this.handlers.values()) {
      if (this.options.prefetch) ahead += state.speed.perWindow(now);
      spokenFor += Math.min(state.queue.length, state.limit - state.running);
    }
    ahead = Math.min(ahead, MAX_PREFETCH);
    const slots = Math.max(0, this.options.concurrency - this.running - spokenFor);
    const room = Math.max(0, ahead - this.queued);
    // With all slots busy, let the prefetch shrink to half before it is filled up: fewer and larger claims.
    if (slots === 0 && room < Math.max(1, ahead / 2)) return undefined;
    const total = slots + room;
    return {
      total,
      of: (name) => {
        const state = this.handlers.get(name)!;
        const ownRoom = this.options.prefetch
          ? Math.max(0, state.speed.perWindow(now) - state.queue.length)
          : 0;
        return Math.min(total, freeSlots(state) + ownRoom);
      },
    };
  }

  /** Takes over claimed calls and starts what can start. */
  accept(calls: readonly ClaimedCall[]): void {
    const now = performance.now();
    for (const call of calls) {
      const state = this.handlers.get(call.name)!;
      state.speed.begin(now);
      if (state.queue.push(call) === 1) this.waiting.push(state);
    }
    this.queued += calls.length;
    this.startNext();
  }

  /** Starts what can start: after the session has answered again. */
  resume(): void {
    this.startNext();
  }

  /** Every claimed call whose end is not confirmed. Put together when it is asked for, which is seldom. */
  knownCalls(): ClaimedCall[] {
    return [
      ...[...this.handlers.values()].flatMap(({ queue }) => queue),
      ...[...this.attempts].map(({ call }) => call),
      ...this.completer.unconfirmed().map(({ call }) => call),
      ...this.undecided,
    ];
  }

  /** Hands out what was claimed and never started; the executor forgets it. */
  takeQueued(): ClaimedCall[] {
    const calls = [...this.handlers.values()].flatMap((state) => state.queue.splice(0));
    this.queued = 0;
    this.waiting = [];
    return calls;
  }

  /** Starts nothing any more. */
  stop(): void {
    this.isStopped = true;
  }

  /** Aborts the signal of every attempt that runs. */
  abort(reason: Error): void {
    for (const attempt of this.attempts) attempt.abort(reason);
  }

  /** Resolves when no handler runs. */
  async idle(): Promise<void> {
    if (this.running > 0) await new Promise<void>((resolve) => (this.becameIdle = resolve));
  }

  private startNext(): void {
    // A handler that ends synchronously comes back here from within.
    if (this.isStarting) return;
    this.isStarting = true;
    try {
      while (
        this.queued > 0 &&
        !this.isStopped &&
        this.running < this.options.concurrency &&
        this.session.isTrusted
      ) {
        if (this.startedInTurn === MOST_IN_A_TURN) break;
        const state = this.nextHandler();
        if (state === undefined) break;
        if (this.startedInTurn++ === 0) setImmediate(() => this.nextTurn());
        this.queued--;
        this.begin(state, state.queue.shift()!);
      }
    } finally {
      this.isStarting = false;
    }
  }

  private nextTurn(): void {
    const wasFull = this.startedInTurn === MOST_IN_A_TURN;
    this.startedInTurn = 0;
    if (wasFull) this.startNext();
  }

  /** The handlers take turns: who has had one goes to the end. */
  private nextHandler(): HandlerState | undefined {
    const index = this.waiting.findIndex(({ running, limit }) => running < limit);
    const state = this.waiting[index];
    // A handler that waits alone goes to its own end: nothing is moved for each of its calls.
    if (state === undefined || (this.waiting.length === 1 && state.queue.length > 1)) return state;
    this.waiting.splice(index, 1);
    if (state.queue.length > 1) this.waiting.push(state);
    return state;
  }

  private begin(state: HandlerState, call: ClaimedCall): void {
    const attempt = new FutureCallAttempt(call);
    this.attempts.add(attempt);
    state.running++;
    if (this.events.observed)
      this.events.emit({ type: 'started', ...attempt.describe(), dueAt: attempt.dueAt });
    let result: Promise<unknown> | undefined;
    try {
      const data: unknown = call.data === null ? null : JSON.parse(call.data);
      // A context of its own: what one handler enters, the next one must not find.
      const answer = new AsyncResource('FutureCall').runInAsyncScope(
        state.handler.invoke,
        undefined,
        data,
        attempt,
      );
      if (isThenable(answer)) result = Promise.resolve(answer);
    } catch (error) {
      this.failed(state, call, attempt, error);
      return;
    }
    if (result === undefined) {
      this.ended(state, call, attempt, { call, error: null });
    } else {
      result.then(
        () => this.ended(state, call, attempt, { call, error: null }),
        (error: unknown) => this.failed(state, call, attempt, error),
      );
    }
  }

  private failed(state: HandlerState, call: ClaimedCall, attempt: FutureCallAttempt, thrown: unknown): void {
    const error = describeError(thrown);
    if (attempt.isAborted) {
      // It was told to end early and did. What it is worth is decided where it was told: by the drain or by a rescuer.
      this.logger.warn(`Future call ${attempt.toString()} ended after it was told to: ${error.message}`);
      this.ended(state, call, attempt, undefined);
      return;
    }
    const next = this.nextAttempt(state, attempt, thrown);
    this.logger.error(
      `Future call ${attempt.toString()} failed${next === undefined ? '' : ', and is tried again'}: ${error.message}`,
      error.stack,
    );
    if (this.events.observed) {
      this.events.emit({
        type: 'failed',
        ...attempt.describe(),
        error: thrown,
        willRetry: next !== undefined,
      });
    }
    this.ended(state, call, attempt, {
      call,
      error: JSON.stringify({ attempt: call.attempt, ...error }),
      next,
    });
  }

  private nextAttempt(
    { handler }: HandlerState,
    attempt: FutureCallAttempt,
    thrown: unknown,
  ): NextAttempt | undefined {
    try {
      return nextAttempt(handler.options, attempt.attempt, thrown);
    } catch (error) {
      this.logger.error(
        `The backoff of ${handler.className} failed for future call ${attempt.toString()}, so the default applies: ${describeError(error).message}`,
      );
      return exponential(attempt.attempt, DEFAULT_BACKOFF.delay, DEFAULT_BACKOFF.max);
    }
  }

  private ended(
    state: HandlerState,
    call: ClaimedCall,
    attempt: FutureCallAttempt,
    end: AttemptEnd | undefined,
  ): void {
    this.attempts.delete(attempt);
    state.running--;
    state.speed.count();
    if (end !== undefined) this.completer.add(end);
    // Coming back would release it, unless it is known. Of an instance that was taken for dead, nobody asks.
    else if (call.instanceId === this.session.instance.id) this.undecided.push(call);
    this.startNext();
    if (state.running === 0 && state.queue.length === 0) state.speed.pause(performance.now());
    if (this.running === 0) this.becameIdle();
    this.slotFreed();
  }

  private confirmed(ends: readonly AttemptEnd[]): void {
    if (!this.events.observed) return;
    for (const { call, error } of ends) {
      if (error !== null) continue;
      const { id, name, identifier, attempt } = call;
      this.events.emit({ type: 'completed', id, name, identifier, attempt });
    }
  }
}

function freeSlots({ limit, running, queue }: HandlerState): number {
  return Math.max(0, limit - running - queue.length);
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof (value as PromiseLike<unknown> | null | undefined)?.then === 'function';
}
