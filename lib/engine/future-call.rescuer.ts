import { Logger } from '@nestjs/common';
import { errorText } from '../common/describe-error.js';
import { counted, quoted } from '../common/text.js';
import { monotonic, sleep } from '../common/timers.js';
import { ToldReasons } from '../common/told-reasons.js';
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
import { FutureCallProbe } from './future-call.probe.js';
import { DEFAULT_BACKOFF } from './future-call.retry-policy.js';

/** How many looks must have missed a lock, whatever the time between them. */
const LOOKS = 3;
/** Every how many looks to look for running calls whose instance has no row at all. */
const LOOK_AT_EVERYONE = 12;
/** Why something of a dead instance is left. */
const LOCKED = 'somebody has locked it';
/** The most looks that are left out after one that was refused: twice as many each time. */
const MOST_LEFT_OUT = 15;
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
  private readonly probe: FutureCallProbe;
  private readonly refusals = new ToldReasons();
  /** How many looks in a row were refused, and how many are left out before the next one. */
  private refused = 0;
  private leftOut = 0;

  constructor(
    private readonly options: ResolvedOptions,
    private readonly store: FutureCallInstanceStore,
    private readonly session: FutureCallSession,
    private readonly events: FutureCallEvents,
  ) {
    this.probe = new FutureCallProbe(options, session);
  }

  /** `answered` is told whenever the session has proved that it works. */
  start(answered: () => void): void {
    this.answered = answered;
    this.looking = this.lookRegularly();
  }

  async stop(): Promise<void> {
    this.stopped.abort();
    this.rest.abort();
    this.probe.stop();
    await this.looking;
  }

  /**
   * Whether a look has found everybody alive who is registered. Who could not be rescued is not waited for, nor looks that
   * are refused again and again: that is in the log, and is tried again by whoever looks next.
   */
  get isSure(): boolean {
    return this.refused > 1 || (this.hasLooked && this.unjudged.length === 0);
  }

  /** The instances whose lock is missing, and of which it is not known yet whether they are dead. */
  get unjudged(): number[] {
    return [...this.missing].filter(([, { failure }]) => failure === undefined).map(([id]) => id);
  }

  /** Resolves when a look has ended, the first one on this session at once; or when the signal is aborted. */
  async nextLook(signal: AbortSignal): Promise<void> {
    // Not without a session, nor after a look that was refused: who asks again and again would never let anybody rest.
    if (!this.hasLooked && this.session.isOpen && this.refused === 0) this.rest.abort();
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
        if (this.session.isOpen) await this.lookUnlessRefused();
      } catch (error) {
        // Without a session there will be another one, and what ended this one has been told.
        if (this.session.isOpen) this.lookFailed(error);
      }
      this.lookEnds.beat();
      // Not an any() of both signals: one that lives long keeps something of each that was made of it.
      this.rest = new AbortController();
      if (!signal.aborted) await sleep(period, this.rest.signal);
    }
  }

  /** A look that is refused would be refused again; but it is the probe of the session too. */
  private async lookUnlessRefused(): Promise<void> {
    if (this.leftOut > 0) {
      this.leftOut--;
      await this.probeLock();
      return;
    }
    try {
      await this.look();
    } catch (error) {
      if (this.session.isOpen) await this.probeLock();
      throw error;
    }
    this.refused = 0;
    if (this.refusals.forget()) this.logger.log('Looking for dead instances works again.');
  }

  private lookFailed(error: unknown): void {
    this.leftOut = Math.min(2 ** this.refused++, MOST_LEFT_OUT);
    // Whoever was missing may be there meanwhile, and gone again: only looks that follow each other tell.
    for (const missing of this.missing.values()) Object.assign(missing, { since: monotonic(), looks: 0 });
    const reason = errorText(error);
    if (!this.refusals.isNew(reason)) return;
    this.logger.warn(
      `Looking for dead instances fails, and is tried again; until it works, nobody here gives their calls an outcome: ${reason}. ` +
        `Give the role the rights that it had at boot, or take away what is in the way.`,
    );
  }

  /** Looks, and rescues who is dead. All of it is watched: the look is the probe of the session. */
  private async look(): Promise<void> {
    const sentAt = monotonic();
    const seen = await this.probe.watch('the look', () => this.store.look(this.looksAtEveryone()));
    const own = seen.find(({ id, host }) => id === this.session.instance.id && host !== null);
    if (own === undefined) {
      if (!(await this.registerAgain())) return;
    } else if (!own.holdsLock) {
      this.session.abandon('our lock is gone');
      return;
    }
    this.answered();
    for (const instance of this.dead(seen, sentAt)) {
      await this.probe.watch('a rescue', () => this.rescue(instance));
    }
    this.hasLooked = true;
  }

  /** Nobody can rescue who holds the lock: so it was no rescuer who has removed our row, and none of our calls is gone. */
  private async registerAgain(): Promise<boolean> {
    if (!(await this.probeLock('our row is gone, and our lock'))) return false;
    const { id } = this.session.instance;
    await this.probe.watch('our row', () => this.session.registerAgain());
    this.logger.warn(
      `The row of instance ${id} was removed from future_call_instance, by hand or by a truncate, while the instance runs. It is there again.`,
    );
    return true;
  }

  /** Asks for no more than our own lock, which takes no rights. */
  private async probeLock(otherwise = 'our lock is gone'): Promise<boolean> {
    const holds = await this.probe.watch('the look', () => this.session.holdsLock());
    if (holds) this.answered();
    else this.session.abandon(otherwise);
    return holds;
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
    this.logger.warn(
      `Instance ${id}${where} was taken for dead: nobody has held its lock for ${this.options.rescueAfter} ms. ${this.interrupted(id, calls)}`,
    );
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
      const label = identifier === null ? '' : `, identifier ${quoted(identifier)}`;
      return `${quoted(name)} (id ${id}, attempt ${attempt}${label}${willRetry ? ', is tried again' : ''})`;
    });
    const more = calls.length > NAMED_CALLS ? ` and ${calls.length - NAMED_CALLS} more` : '';
    return `Interrupted ${counted(calls.length, 'call')}: ${named.join(', ')}${more}.`;
  }
}
