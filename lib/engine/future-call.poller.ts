import { Logger } from '@nestjs/common';
import { errorText } from '../common/describe-error.js';
import { clearInterval, monotonic, setImmediate, setInterval, sleep } from '../common/timers.js';
import { unlessAborted } from '../common/waiting.js';
import type { ResolvedOptions } from '../module/future-call.options.js';
import type { LocalPoller, Reservation } from '../contract/future-call.wake.js';
import { FutureCallClaimStore, type Watermark } from '../store/future-call.claim-store.js';
import { FutureCallSession } from '../store/future-call.session.js';
import { NOTIFICATION_SEPARATOR } from '../store/future-call.sql.js';
import { FutureCallDueTimer } from './future-call.due-timer.js';
import { FutureCallExecutor } from './future-call.executor.js';
import { FutureCallLockWatch } from './future-call.lock-watch.js';
import { PolledHandler } from './future-call.polled-handler.js';
import { FutureCallSlots, type Capacity } from './future-call.slots.js';

/** How long to wait after a claim that the server refused, in milliseconds. */
const RETRY_AFTER = 1_000;
/** How long to wait before looking again for a session that is lost, in milliseconds. */
const LOOK_AGAIN_AFTER = 100;

/** A handler, and how many of its calls it could start or take ahead. */
interface Wish {
  readonly handler: PolledHandler;
  readonly free: number;
}

const NOTHING = { count: 0, last: undefined };

/**
 * Decides when to claim: when a call becomes due, is announced, or a slot becomes free while there may be more; and
 * every `pollInterval`, for what nobody announced. What is due but has no slot waits for one of these; what somebody has
 * locked is looked at again by and by. No timer spins on it.
 */
export class FutureCallPoller implements LocalPoller {
  private readonly logger = new Logger('FutureCall');
  /** The least recently served first. */
  private handlers: PolledHandler[] = [];
  private readonly byName = new Map<string, PolledHandler>();
  private claiming: Promise<void> | undefined;
  private pollTimer: NodeJS.Timeout | undefined;
  private readonly dueTimer: FutureCallDueTimer;
  private readonly lockWatch: FutureCallLockWatch;
  /** Whether slots that became free in this turn of the event loop are about to be filled. */
  private fillsSlots = false;
  private served = 1;
  /** Slots that calls of this process are promised, which are being inserted. */
  private reserved = 0;
  private isStopped = true;
  private readonly stopped = new AbortController();
  /** How many calls it has claimed, and how often it was answered. */
  private claimed = 0;
  private answers = 0;
  /** Why the last claim failed: told once. */
  private failure: Error | undefined;
  /** How often claiming has failed, one time after the other. */
  private failures = 0;

  constructor(
    private readonly options: ResolvedOptions,
    private readonly store: FutureCallClaimStore,
    private readonly session: FutureCallSession,
    private readonly slots: FutureCallSlots,
    private readonly executor: FutureCallExecutor,
    /** How many calls it may claim in all. */
    private readonly limit: number,
  ) {
    this.dueTimer = new FutureCallDueTimer(options.pollInterval, () => this.becameDue());
    this.lockWatch = new FutureCallLockWatch(options.pollInterval, () => this.lookAtLocked());
  }

  private get remaining(): number {
    return this.limit - this.claimed;
  }

  start(names: Iterable<string>): void {
    for (const name of names) {
      const handler = new PolledHandler(name);
      this.handlers.push(handler);
      this.byName.set(name, handler);
    }
    this.isStopped = false;
    this.pollTimer = setInterval(() => this.poll(), this.options.pollInterval);
    this.claimIfWorthwhile();
  }

  /** Claims nothing any more, and waits for the claim that is on its way. */
  async stop(): Promise<void> {
    this.isStopped = true;
    this.stopped.abort();
    clearInterval(this.pollTimer);
    this.dueTimer.clear();
    this.lockWatch.stop();
    await this.claiming;
  }

  /** Looks for everything, from the start. Also after a reconnect: notifications were missed. */
  poll(): void {
    for (const handler of this.handlers) handler.announce(-Infinity);
    this.claimIfWorthwhile();
  }

  /**
   * Looks once more from the start. True when there was nothing that it might claim at the time of asking; false when there
   * was something, or when it could not look. Throws why claiming fails, when it has failed twice.
   */
  async findsNothing(signal: AbortSignal): Promise<boolean> {
    // The one that is on its way may be older than what has happened since, and cannot tell.
    if (this.claiming !== undefined) {
      await unlessAborted(this.claiming, signal);
      this.throwIfRefused();
      return false;
    }
    if (this.remaining === 0 || this.handlers.length === 0) return true;
    const { answers, claimed } = this;
    this.poll();
    // No session: once there is one, everything is looked for.
    if (this.claiming === undefined) await sleep(LOOK_AGAIN_AFTER, signal);
    if (this.claiming === undefined || signal.aborted) return false;
    await unlessAborted(this.claiming, signal);
    this.throwIfRefused();
    return this.answers > answers && this.claimed === claimed;
  }

  private throwIfRefused(): void {
    if (this.failures > 1 && this.session.isOpen) throw this.failure!;
  }

  /** A slot is free. Those that become free in the same turn of the event loop are filled by one claim. */
  slotFreed(): void {
    if (this.fillsSlots) return;
    this.fillsSlots = true;
    setImmediate(() => {
      this.fillsSlots = false;
      this.claimIfWorthwhile();
    });
  }

  /** A notification arrived. Anybody can send one: what is not ours is ignored. */
  notified(payload: string): void {
    const separator = payload.indexOf(NOTIFICATION_SEPARATOR);
    const dueAt = Number(payload.slice(0, separator));
    if (separator <= 0 || !Number.isFinite(dueAt)) return;
    const name = payload.slice(separator + NOTIFICATION_SEPARATOR.length);
    // Without a name: of several handlers at once.
    for (const one of name === '' ? this.byName.keys() : [name]) this.heardOf(one, dueAt);
  }

  reserve(name: string): Reservation | undefined {
    const handler = this.byName.get(name);
    if (handler === undefined || this.isStopped || !this.session.isTrusted) return undefined;
    // Twenty calls that are scheduled at once are not all claimed by an instance with ten slots.
    if (this.slots.freeFor(name) <= this.reserved) return undefined;
    this.reserved++;
    return {
      giveBack: () => void this.reserved--,
      scheduled: (dueAt) => {
        this.reserved--;
        if (this.isStopped) return false;
        this.heardOf(name, dueAt, true);
        return true;
      },
    };
  }

  private heardOf(name: string, dueAt: number, isOne = false): void {
    const handler = this.byName.get(name);
    if (handler === undefined || this.isStopped) return;
    const isDue = this.dueTimer.isDue(dueAt);
    handler.announce(dueAt, isDue, isOne);
    if (isDue) this.claimIfWorthwhile();
    else this.dueTimer.set(dueAt);
  }

  private claimIfWorthwhile(): void {
    if (this.isStopped || this.claiming !== undefined || !this.session.isOpen) return;
    if (!this.handlers.some(({ mayHaveDue }) => mayHaveDue)) return;
    const capacity = this.slots.capacity();
    if (capacity === undefined || this.remaining === 0) return;
    const limit = Math.min(capacity.total, this.remaining);
    const requests = this.requests(capacity, limit);
    if (!requests.some(({ handler }) => handler.mayHaveDue)) return;
    this.claiming = this.claim(requests, limit)
      .catch((error: unknown) => this.claimFailed(error))
      .finally(() => {
        this.claiming = undefined;
        this.claimIfWorthwhile();
      });
  }

  /** All handlers with a free slot, due calls or not: the claim also tells when the next one of them is due. */
  private requests(capacity: Capacity, limit: number): Wish[] {
    // Shared out among those that had something last time. More is never locked than claimed: the claim has a limit.
    const share = Math.ceil(limit / this.served);
    const requests: Wish[] = [];
    for (const handler of this.handlers) {
      const free = Math.min(share, capacity.of(handler.name));
      if (free > 0) requests.push({ handler, free });
      // Nobody looks for when its next call is due, so there may be one when it has a slot.
      else handler.mayHaveDue = true;
    }
    return requests;
  }

  private async claim(wishes: readonly Wish[], limit: number): Promise<void> {
    const requests = wishes.map(({ handler, free }) => handler.request(free, limit));
    const answer = await this.store.claim(requests, limit);
    const { calls, sentAt, now, nextDueAt } = answer;
    this.dueTimer.tie(now, sentAt);
    this.failure = undefined;
    this.failures = 0;
    this.dueTimer.clear();
    if (!this.isStopped) this.dueTimer.set(nextDueAt);

    const claimed = new Map<string, { count: number; last: Watermark }>();
    for (const call of calls) {
      const of = claimed.get(call.name);
      if (of === undefined) claimed.set(call.name, { count: 1, last: call });
      else {
        of.count++;
        of.last = call;
      }
    }
    const wasCutShort = calls.length >= limit;
    wishes.forEach(({ handler }, i) => {
      const { count, last } = claimed.get(handler.name) ?? NOTHING;
      handler.answered(requests[i]!, answer, { count, last, wasCutShort });
      // The driver delivers a notification before the result of the claim that did not see its call yet.
      if (handler.missed !== undefined) this.heardWhileClaiming(handler, handler.missed);
    });
    if (!this.isStopped) {
      this.lockWatch.seen(
        this.handlers.some(({ hasLocked }) => hasLocked),
        this.handlers.some(({ mayHaveLocked }) => mayHaveLocked),
        monotonic() - sentAt,
      );
    }
    this.answers++;
    this.claimed += calls.length;
    this.served = Math.max(1, claimed.size);
    if (claimed.size > 0 && this.handlers.length > 1) {
      this.handlers = [
        ...this.handlers.filter(({ name }) => !claimed.has(name)),
        ...this.handlers.filter(({ name }) => claimed.has(name)),
      ];
    }
    if (calls.length > 0) this.executor.accept(calls);
  }

  private async claimFailed(error: unknown): Promise<void> {
    // Without a session there will be another one, and everything is looked for again.
    if (!this.session.isOpen) return;
    const reason = errorText(error);
    if (reason !== errorText(this.failure)) {
      this.logger.error(`Claiming fails, and is tried every second: ${reason}`);
    }
    this.failure = error as Error;
    this.failures++;
    await sleep(RETRY_AFTER, this.stopped.signal);
  }

  private heardWhileClaiming(handler: PolledHandler, dueAt: number): void {
    const isDue = this.dueTimer.isDue(dueAt);
    handler.announce(dueAt, isDue);
    if (!isDue && !this.isStopped) this.dueTimer.set(dueAt);
  }

  private becameDue(): void {
    for (const handler of this.handlers) handler.mayHaveDue = true;
    this.claimIfWorthwhile();
  }

  private lookAtLocked(): void {
    for (const handler of this.handlers) handler.lookAtLocked();
    this.claimIfWorthwhile();
  }
}
