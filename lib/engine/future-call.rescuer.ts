import { Logger } from '@nestjs/common';
import { errorText } from '../common/describe-error.js';
import { counted } from '../common/text.js';
import { clearTimeout, monotonic, setTimeout, sleep } from '../common/timers.js';
import { Pulse, unlessAborted } from '../common/waiting.js';
import { FutureCallEvents } from '../contract/future-call.events.js';
import type { ResolvedOptions } from '../module/future-call.options.js';
import {
  FutureCallInstanceStore,
  type InterruptedCall,
  type Rescue,
  type SeenInstance,
} from '../store/future-call.instance-store.js';
import { FutureCallSession } from '../store/future-call.session.js';
import { DEFAULT_BACKOFF } from './future-call.retry-policy.js';

/** How many looks must have missed a lock, whatever the time between them. */
const LOOKS = 3;
/** Every how many looks to look for running calls whose instance has no row at all. */
const LOOK_AT_EVERYONE = 12;
/** The least time an answer may take before the session is given up, in milliseconds. */
const SHORTEST_DEADLINE = 5_000;
/** Why something of a dead instance is left. */
const LOCKED = 'somebody has locked it';
/** How many calls of a dead instance are named in the log. */
const NAMED_CALLS = 20;

interface Missing {
  /** When the first answer came that did not have the lock, on this process's monotonic clock. */
  since: number;
  looks: number;
  /** Without one, it is known by its running calls alone. */
  hasRow: boolean;
  /** Why it could not be rescued: told once. */
  failure?: string;
}

/**
 * Looks every `rescueAfter / 2` who is registered and whose liveness lock is held, and gives the calls of a dead
 * instance their outcome. The look is also the probe of our own session: it resets its idle timeout, notices a
 * connection that swallows everything, and finds out if somebody took us for dead.
 */
export class FutureCallRescuer {
  private readonly logger = new Logger('FutureCall');
  private readonly stopped = new AbortController();
  private readonly missing = new Map<number, Missing>();
  private looking: Promise<void> | undefined;
  private looks = 0;
  private answered: () => void = () => {};
  /** How many calls it has taken from dead instances. */
  rescued = 0;
  private readonly lookEnds = new Pulse();
  /** Between two looks. */
  private rest = new AbortController();
  /** Whether this session has answered a look. */
  private hasLooked = false;

  constructor(
    private readonly options: ResolvedOptions,
    private readonly store: FutureCallInstanceStore,
    private readonly session: FutureCallSession,
    private readonly events: FutureCallEvents,
  ) {}

  /** `answered` is told whenever the session has proved that it works. */
  start(answered: () => void): void {
    this.answered = answered;
    this.looking = this.lookRegularly();
  }

  async stop(): Promise<void> {
    this.stopped.abort();
    this.rest.abort();
    await this.looking;
  }

  /**
   * Whether a look has found everybody alive who is registered. Who could not be rescued is not waited for: that is in
   * the log, and is tried again by whoever looks next.
   */
  get isSure(): boolean {
    return this.hasLooked && this.unjudged.length === 0;
  }

  /** The instances whose lock is missing, and of which it is not known yet whether they are dead. */
  get unjudged(): number[] {
    return [...this.missing].filter(([, { failure }]) => failure === undefined).map(([id]) => id);
  }

  /** Resolves when a look has ended, the first one on this session at once; or when the signal is aborted. */
  async nextLook(signal: AbortSignal): Promise<void> {
    if (!this.hasLooked) this.rest.abort();
    await unlessAborted(this.lookEnds.next, signal);
  }

  /** The session was lost: what was seen on it is no unbroken observation. After a restart of the server every lock is missing. */
  reset(): void {
    this.missing.clear();
    this.hasLooked = false;
  }

  private async lookRegularly(): Promise<void> {
    const { signal } = this.stopped;
    // A millisecond more, so that three looks span all of `rescueAfter`.
    const period = this.options.rescueAfter / 2 + 1;
    while (!signal.aborted) {
      try {
        if (this.session.isOpen) await this.look();
      } catch (error) {
        this.logger.debug(`A look failed: ${errorText(error)}`);
      }
      this.lookEnds.beat();
      // Not an any() of both signals: one that lives long keeps something of each that was made of it.
      this.rest = new AbortController();
      if (!signal.aborted) await sleep(period, this.rest.signal);
    }
  }

  /** Looks, and rescues who is dead. All of it has a deadline: the look is the probe of the session. */
  private async look(): Promise<void> {
    const sentAt = monotonic();
    const seen = await this.withinDeadline(() => this.store.look(this.looksAtEveryone()));
    const own = seen.find(({ id }) => id === this.session.instance.id);
    if (own?.holdsLock !== true) {
      this.session.abandon(own === undefined ? 'our row is gone' : 'our lock is gone');
      return;
    }
    this.answered();
    for (const instance of this.dead(seen, sentAt)) await this.withinDeadline(() => this.rescue(instance));
    this.hasLooked = true;
  }

  private async withinDeadline<T>(work: () => Promise<T>): Promise<T> {
    const deadline = setTimeout(
      () => this.session.abandon('no answer'),
      Math.max(2 * this.options.rescueAfter, SHORTEST_DEADLINE),
    );
    try {
      return await work();
    } finally {
      clearTimeout(deadline);
    }
  }

  /** Rarely; but who was seen once that way has to be seen in every look until it is judged. */
  private looksAtEveryone(): boolean {
    const isTracking = [...this.missing.values()].some(({ hasRow }) => !hasRow);
    return this.looks++ % LOOK_AT_EVERYONE === 0 || isTracking;
  }

  /** Whose lock has been missing for the whole of `rescueAfter`, up to when this look was sent. */
  private dead(seen: readonly SeenInstance[], sentAt: number): SeenInstance[] {
    const without = seen.filter(({ holdsLock }) => !holdsLock);
    const ids = new Set(without.map(({ id }) => id));
    for (const id of this.missing.keys()) if (!ids.has(id)) this.missing.delete(id);
    const answeredAt = monotonic();
    return without.filter(({ id, host }) => {
      const missing = this.missing.get(id) ?? { since: answeredAt, looks: 0, hasRow: host !== null };
      missing.looks++;
      this.missing.set(id, missing);
      return missing.looks >= LOOKS && sentAt - missing.since >= this.options.rescueAfter;
    });
  }

  private async rescue({ id, host, pid }: SeenInstance): Promise<void> {
    const where = host === null ? '' : ` (${host}, pid ${pid})`;
    let rescue: Rescue | undefined;
    try {
      rescue = await this.store.rescue(id, DEFAULT_BACKOFF);
    } catch (error) {
      // Without a session everybody is looked at anew. With one, the others must not wait for this one.
      if (!this.session.isOpen) throw error;
      this.rescueFailed(id, `Rescuing instance ${id}${where} fails, and is tried again: ${errorText(error)}`);
      return;
    }
    if (rescue === undefined) return;
    const { calls, isComplete } = rescue;
    this.rescued += calls.length;
    const missing = this.missing.get(id);
    const isNews = calls.length > 0 || missing?.failure !== LOCKED;
    if (isComplete) this.missing.delete(id);
    // The next look tries again.
    else if (missing !== undefined) missing.failure = LOCKED;
    if (!isNews) return;
    this.logger.warn(`Instance ${id}${where} is dead. ${this.interrupted(id, calls)}`);
    this.events.emit({ type: 'rescued', instanceId: id, host, pid, calls: calls.length });
  }

  private rescueFailed(id: number, failure: string): void {
    const missing = this.missing.get(id);
    if (missing === undefined || missing.failure === failure) return;
    missing.failure = failure;
    this.logger.warn(failure);
  }

  /** Tells of calls that ended with an instance. Answers with a sentence for the log. */
  interrupted(instanceId: number, calls: readonly InterruptedCall[]): string {
    if (this.events.observed) {
      for (const call of calls) this.events.emit({ type: 'interrupted', ...call, instanceId });
    }
    if (calls.length === 0) return 'No call was interrupted.';
    const named = calls.slice(0, NAMED_CALLS).map(({ id, name, attempt, identifier, willRetry }) => {
      const label = identifier === null ? '' : `, identifier "${identifier}"`;
      return `"${name}" (id ${id}, attempt ${attempt}${label}${willRetry ? ', is tried again' : ''})`;
    });
    const more = calls.length > NAMED_CALLS ? ` and ${calls.length - NAMED_CALLS} more` : '';
    return `Interrupted ${counted(calls.length, 'call')}: ${named.join(', ')}${more}.`;
  }
}
