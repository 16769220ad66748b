import { Logger } from '@nestjs/common';
import { errorText } from '../common/describe-error.js';
import { counted } from '../common/text.js';
import { ToldReasons } from '../common/told-reasons.js';
import { clearTimeout, setImmediate, setTimeout } from '../common/timers.js';
import { FutureCallEvents } from '../contract/future-call.events.js';
import type { ClaimToken } from '../store/future-call.claim-store.js';
import { FutureCallEndingStore, type GivingBack } from '../store/future-call.ending-store.js';
import { FutureCallSession } from '../store/future-call.session.js';
import { FutureCallSlots } from './future-call.slots.js';
import { WINDOW } from './future-call.speed.js';

/** How many windows a queue may wait without a start: a call that waits longer could have started elsewhere. */
const PATIENCE = 1;
/** How long to wait before trying again what was refused or locked, in milliseconds: twice as long each time. */
const RETRY_AFTER = 1_000;
const LONGEST_RETRY = 10_000;

/**
 * Gives claimed calls back that do not start: a handler that worked off thousands a second and hangs from now on may have
 * as many in its queue, while other processes are idle.
 */
export class FutureCallReleaser {
  private readonly logger = new Logger('FutureCall');
  private watching: NodeJS.Timeout | undefined;
  /** What is still claimed though it was given back, and when that is tried again. */
  private left: readonly ClaimToken[] = [];
  private retrying: NodeJS.Timeout | undefined;
  private tries = 0;
  private readonly reasons = new ToldReasons();
  private isStopped = false;

  constructor(
    private readonly store: FutureCallEndingStore,
    private readonly session: FutureCallSession,
    private readonly slots: FutureCallSlots,
    private readonly events: FutureCallEvents,
  ) {}

  /** Calls wait. It looks whether they do start, until none waits or the session has to prove that it works. */
  watch(): void {
    if (this.watching !== undefined || this.isStopped) return;
    this.watching = setTimeout(() => {
      // After a turn in which the event loop was kept, what has ended meanwhile is heard first.
      setImmediate(() => this.look());
    }, WINDOW);
  }

  /** Gives calls back that have not started. What somebody has locked, or the database refuses, is tried again. */
  async release(calls: readonly ClaimToken[]): Promise<void> {
    if (calls.length === 0) return;
    try {
      this.releaseWorked(await this.store.release(calls));
    } catch (error) {
      // Coming back releases them.
      if (!this.session.isOpen) return;
      const reason = errorText(error);
      if (this.reasons.isNew(reason)) {
        this.logger.warn(
          `Giving back ${counted(calls.length, 'call')} that had not started failed, and is tried until it works: ${reason}`,
        );
      }
      this.later(calls);
    }
  }

  /** Gives back what is claimed by this instance but is not among `known`. Throws what the database says. */
  async releaseUnknown(known: readonly ClaimToken[]): Promise<void> {
    this.forget();
    const { locked } = await this.store.releaseUnknown(known);
    this.later(locked);
  }

  /** What is left belongs to nobody here any more. */
  forget(): void {
    clearTimeout(this.retrying);
    this.retrying = undefined;
    this.left = [];
    this.tries = 0;
  }

  /** Tries what is left once more. What is left then is for whoever cleans up after this instance. */
  async finish(): Promise<void> {
    const { left } = this;
    this.isStopped = true;
    clearTimeout(this.watching);
    this.forget();
    await this.release(left);
  }

  private look(): void {
    this.watching = undefined;
    // Nothing starts while the session has to prove that it works, and that says nothing of a handler.
    if (this.isStopped || !this.session.isTrusted) return;
    void this.release(this.slots.takeStalled(PATIENCE));
    if (this.slots.hasQueued) this.watch();
  }

  private releaseWorked({ released, locked }: GivingBack): void {
    this.reasons.forget();
    if (this.events.observed) {
      for (const { id, name, identifier } of released)
        this.events.emit({ type: 'released', id, name, identifier });
    }
    if (locked.length === 0) this.tries = 0;
    this.later(locked);
  }

  private later(calls: readonly ClaimToken[]): void {
    if (calls.length === 0 || this.isStopped) return;
    this.left = [...this.left, ...calls];
    this.retrying ??= setTimeout(
      () => {
        const { left } = this;
        this.retrying = undefined;
        this.left = [];
        void this.release(left);
      },
      Math.min(RETRY_AFTER * 2 ** this.tries++, LONGEST_RETRY),
    );
  }
}
