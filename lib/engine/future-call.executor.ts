import { AsyncResource } from 'node:async_hooks';
import { Logger } from '@nestjs/common';
import { describeError, errorText, inOneLine, stackOf } from '../common/describe-error.js';
import { monotonic, setImmediate } from '../common/timers.js';
import { isThenable } from '../common/waiting.js';
import type { RegisteredHandler } from '../handlers/future-call.explorer.js';
import { FutureCallEvents } from '../contract/future-call.events.js';
import type { ClaimedCall } from '../store/future-call.claim-store.js';
import type { AttemptEnd, NextAttempt } from '../store/future-call.ending-store.js';
import { FutureCallSession } from '../store/future-call.session.js';
import { FutureCallAttempt } from './future-call.attempt.js';
import { FutureCallCompleter } from './future-call.completer.js';
import { FutureCallReleaser } from './future-call.releaser.js';
import { DEFAULT_BACKOFF, exponential, inWords, nextAttempt } from './future-call.retry-policy.js';
import { RunningAttempts } from './future-call.running-attempts.js';
import { FutureCallSlots, type HandlerSlots } from './future-call.slots.js';

/** The most that starts in one turn of the event loop: handlers that wait for nothing would keep the app from it. */
const MOST_IN_A_TURN = 500;
/** And for how long such handlers may keep it, in milliseconds, before it is let go. */
const LONGEST_TURN = 10;

/** Runs attempts: invokes the handlers of calls that may start, and sees to what becomes of it. */
export class FutureCallExecutor {
  private readonly logger = new Logger('FutureCall');
  private readonly attempts = new RunningAttempts();
  /** Calls of this instance that ended because they were told to: the drain gives them their outcome. */
  private readonly undecided: ClaimedCall[] = [];
  /** What has become of calls: those whose ends are recorded. */
  readonly counts = { started: 0, completed: 0, failed: 0, retried: 0 };
  private startedInTurn = 0;
  /** When the first one started in this turn, on the monotonic clock, and when the last one had. */
  private turnBegan = 0;
  private startedAt = 0;
  private isStarting = false;
  private isStopped = false;
  private slotFreed: () => void = () => {};
  private becameIdle: () => void = () => {};

  constructor(
    private readonly session: FutureCallSession,
    private readonly slots: FutureCallSlots,
    private readonly completer: FutureCallCompleter,
    private readonly releaser: FutureCallReleaser,
    private readonly events: FutureCallEvents,
  ) {}

  start(handlers: Iterable<RegisteredHandler>, slotFreed: () => void): void {
    this.slotFreed = slotFreed;
    this.slots.open(handlers);
    this.completer.onConfirmed((ends) => this.confirmed(ends));
  }

  /** How many handlers run. */
  get running(): number {
    return this.attempts.size;
  }

  /** Takes over claimed calls and starts what can start. */
  accept(calls: readonly ClaimedCall[]): void {
    this.slots.enqueue(calls);
    this.startNext();
  }

  /** Starts what can start: after the session has answered again. */
  resume(): void {
    this.startNext();
  }

  /** Every claimed call whose end is not confirmed. Put together when it is asked for, which is seldom. */
  knownCalls(): ClaimedCall[] {
    return [
      ...this.slots.queuedCalls(),
      ...[...this.attempts].map(({ call }) => call),
      ...this.completer.unconfirmed().map(({ call }) => call),
      ...this.undecided,
    ];
  }

  /** Starts nothing any more. */
  stop(): void {
    this.isStopped = true;
  }

  /** Forgets what has been claimed and not started: it was given away. */
  forgetQueued(): void {
    this.slots.takeQueued();
    if (this.isIdle) this.becameIdle();
  }

  /** Aborts the signal of every attempt that runs. */
  abort(reason: Error): void {
    for (const attempt of this.attempts) attempt.abort(reason);
  }

  /** Whether no handler runs, and no claimed call waits to start. */
  get isIdle(): boolean {
    return this.running === 0 && !this.slots.hasQueued;
  }

  /** Resolves when it is idle. */
  async idle(): Promise<void> {
    if (!this.isIdle) await new Promise<void>((resolve) => (this.becameIdle = resolve));
  }

  private startNext(): void {
    // A handler that ends synchronously comes back here from within.
    if (this.isStarting) return;
    this.isStarting = true;
    let isFirst = true;
    try {
      while (this.slots.mayHaveNext && !this.isStopped && this.session.isTrusted) {
        if (this.startedInTurn === MOST_IN_A_TURN || this.startedAt - this.turnBegan > LONGEST_TURN) break;
        const slots = this.slots.next();
        if (slots === undefined) break;
        if (isFirst) this.startedAt = monotonic();
        isFirst = false;
        if (this.startedInTurn++ === 0) this.beginTurn();
        this.begin(slots, this.slots.take(slots));
      }
    } finally {
      this.isStarting = false;
    }
    if (this.slots.hasQueued && this.session.isTrusted) this.releaser.watch();
  }

  private beginTurn(): void {
    setImmediate(() => this.nextTurn());
    this.turnBegan = this.startedAt;
  }

  private nextTurn(): void {
    this.startedInTurn = this.turnBegan = this.startedAt = 0;
    if (this.slots.hasQueued) this.startNext();
  }

  private begin(slots: HandlerSlots, call: ClaimedCall): void {
    const attempt = new FutureCallAttempt(call);
    this.attempts.add(attempt);
    this.counts.started++;
    if (this.events.observed)
      this.events.emit({ type: 'started', ...attempt.describe(), dueAt: attempt.dueAt });
    const { startedAt } = this;
    let result: Promise<unknown> | undefined;
    try {
      const data: unknown = call.data === null ? null : JSON.parse(call.data);
      // A context of its own: what one handler enters, the next one must not find.
      const answer = new AsyncResource('FutureCall').runInAsyncScope(
        slots.handler.invoke,
        undefined,
        data,
        attempt,
      );
      if (isThenable(answer)) result = Promise.resolve(answer);
    } catch (error) {
      this.started(slots, startedAt);
      slots.speed.ended(this.startedAt, this.startedAt - startedAt);
      this.failed(slots, call, attempt, error);
      return;
    }
    this.started(slots, startedAt);
    if (result === undefined) {
      slots.speed.ended(this.startedAt, this.startedAt - startedAt);
      this.ended(slots, call, attempt, { call, error: null });
    } else {
      result.then(
        () => {
          this.settled(slots, startedAt);
          this.ended(slots, call, attempt, { call, error: null });
        },
        (error: unknown) => {
          this.settled(slots, startedAt);
          this.failed(slots, call, attempt, error);
        },
      );
    }
  }

  /** The clock is read once for both: when this one had started, and when the next one begins to. */
  private started({ speed }: HandlerSlots, since: number): void {
    this.startedAt = monotonic();
    speed.started(this.startedAt, this.startedAt - since);
  }

  private settled({ speed }: HandlerSlots, startedAt: number): void {
    const now = monotonic();
    speed.ended(now, now - startedAt);
  }

  private failed(slots: HandlerSlots, call: ClaimedCall, attempt: FutureCallAttempt, thrown: unknown): void {
    const error = describeError(thrown);
    if (attempt.isAborted) {
      // It was told to end early and did. What it is worth is decided where it was told: by the drain or by a rescuer.
      this.logger.warn(`Future call ${attempt.toString()} ended after it was told to: ${inOneLine(error)}`);
      this.ended(slots, call, attempt, undefined);
      return;
    }
    const next = this.nextAttempt(slots, attempt, thrown);
    if (next === undefined) {
      this.logger.error(`Future call ${attempt.toString()} failed: ${inOneLine(error)}`, stackOf(error));
    } else {
      // Nothing is lost yet. The stack is kept with the call.
      this.logger.warn(
        `Future call ${attempt.toString()} failed, and is tried again ${inWords(next)}: ${inOneLine(error)}`,
      );
    }
    if (this.events.observed) {
      this.events.emit({
        type: 'failed',
        ...attempt.describe(),
        error: thrown,
        willRetry: next !== undefined,
      });
    }
    this.ended(slots, call, attempt, {
      call,
      error: JSON.stringify({ attempt: call.attempt, ...error }),
      next,
    });
  }

  private nextAttempt(
    { handler }: HandlerSlots,
    attempt: FutureCallAttempt,
    thrown: unknown,
  ): NextAttempt | undefined {
    try {
      return nextAttempt(handler.options, attempt.attempt, thrown);
    } catch (error) {
      this.logger.error(
        `The backoff of ${handler.className} failed for future call ${attempt.toString()}, so the default applies: ${errorText(error)}`,
      );
      return exponential(attempt.attempt, DEFAULT_BACKOFF.delay, DEFAULT_BACKOFF.max);
    }
  }

  private ended(
    slots: HandlerSlots,
    call: ClaimedCall,
    attempt: FutureCallAttempt,
    end: AttemptEnd | undefined,
  ): void {
    this.attempts.delete(attempt);
    this.slots.free(slots);
    if (end !== undefined) this.completer.add(end);
    // Coming back would release it, unless it is known. Of an instance that was taken for dead, nobody asks.
    else if (call.instanceId === this.session.instance.id) this.undecided.push(call);
    this.startNext();
    if (this.isIdle) this.becameIdle();
    this.slotFreed();
  }

  private confirmed(ends: readonly AttemptEnd[]): void {
    const isObserved = this.events.observed;
    for (const { call, error, next } of ends) {
      this.counts[error === null ? 'completed' : next === undefined ? 'failed' : 'retried']++;
      if (error !== null || !isObserved) continue;
      const { id, name, identifier, attempt } = call;
      this.events.emit({ type: 'completed', id, name, identifier, attempt });
    }
  }
}
