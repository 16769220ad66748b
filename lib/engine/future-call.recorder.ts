import { Logger } from '@nestjs/common';
import { errorText } from '../common/describe-error.js';
import { counted, quoted } from '../common/text.js';
import { ToldReasons } from '../common/told-reasons.js';
import type { AttemptEnd, Recording } from '../store/future-call.ending-store.js';
import { FutureCallSession } from '../store/future-call.session.js';
import { EndsAside } from './future-call.ends-aside.js';

/** How long to wait before trying refused ends again, in milliseconds: twice as long each time. */
const RETRY_AFTER = 100;
const LONGEST_RETRY = 5_000;
/** And before looking again at those that somebody has locked. */
const LOCKED_FOR = 1_000;
/**
 * How many refusals one after the other mean that not a few ends are refused, but all: more than it takes to find the
 * first ones of 5,000 by halves.
 */
const ALL_REFUSED = 30;

/**
 * Records ends of one kind, and sees to those that cannot be recorded now: refused, a trigger of the user's on their rows
 * perhaps, or locked. They wait aside, and hold up no other.
 */
export class FutureCallRecorder {
  private readonly logger = new Logger('FutureCall');
  private readonly refused = new EndsAside((ends) => void this.tryRefused(ends));
  private readonly locked = new EndsAside((ends) => {
    this.locked.take();
    this.again(ends);
  });
  /** One after the other, without one that was recorded; not of ends that were refused before. */
  private refusals = 0;
  private tries = 0;
  private isTrying = false;
  private readonly reasons = new ToldReasons();

  /**
   * @param send records ends; throws when none was recorded, or nobody knows
   * @param again takes ends that are to be recorded once more
   * @param confirmed is told of ends that are recorded
   */
  constructor(
    private readonly session: FutureCallSession,
    private readonly send: (ends: readonly AttemptEnd[]) => Promise<Recording>,
    private readonly again: (ends: readonly AttemptEnd[]) => void,
    private readonly confirmed: (ends: readonly AttemptEnd[]) => void,
  ) {}

  /** Ends that wait aside. */
  get aside(): AttemptEnd[] {
    return [...this.refused.ends, ...this.locked.ends];
  }

  /** Records them, or sets them aside, or hands them to `again` when the session was lost. */
  async record(ends: readonly AttemptEnd[]): Promise<void> {
    if (ends.length === 0) return;
    if (this.allAreRefused) {
      // One of those that wait finds out when they no longer are.
      this.setAside(ends);
      return;
    }
    const error = await this.tryTo(ends);
    if (error === undefined) return;
    this.refusals++;
    if (ends.length === 1 || this.allAreRefused) {
      this.tell(ends, error);
      this.setAside(ends);
      return;
    }
    // If it is one of them, the others must not wait for it.
    const half = ends.length >> 1;
    await this.record(ends.slice(0, half));
    await this.record(ends.slice(half));
  }

  /** What waits stays known. */
  stop(): void {
    this.refused.stop();
    this.locked.stop();
  }

  private get allAreRefused(): boolean {
    return this.refusals >= ALL_REFUSED;
  }

  /** Answers with why they were refused. */
  private async tryTo(ends: readonly AttemptEnd[]): Promise<unknown> {
    try {
      this.sort(await this.send(ends));
      return undefined;
    } catch (error) {
      if (this.session.isOpen) return error;
      for (const end of ends) end.mayBeRecorded = true;
      this.again(ends);
      return undefined;
    }
  }

  private sort({ recorded, locked, lost }: Recording): void {
    if (recorded.length > 0) {
      this.refusals = 0;
      this.confirmed(recorded);
    }
    if (locked.length > 0) this.locked.add(locked, LOCKED_FOR);
    if (lost.length === 0) return;
    const rows = lost.length === 1 ? 'its row' : 'their rows';
    this.logger.warn(
      `How ${named(lost)} ended is not recorded: somebody has taken ${rows} out of future_call_running. ` +
        `Whoever rescues an instance whose lock is gone does that, and so may a statement by hand.`,
    );
  }

  /** One of them: as long as that is refused, the others need not be sent. */
  private async tryRefused(ends: readonly AttemptEnd[]): Promise<void> {
    // The server took longer to refuse it than the wait was. What has come meanwhile is seen to after it.
    if (this.isTrying) return;
    this.isTrying = true;
    const [first, ...others] = ends as [AttemptEnd, ...AttemptEnd[]];
    const error = await this.tryTo([first]);
    this.isTrying = false;
    const waiting = this.refused.take().slice(ends.length);
    if (error === undefined) {
      this.tries = 0;
      this.again([...others, ...waiting]);
      if (others.length + waiting.length === 0) this.reasons.forget();
      return;
    }
    this.tell([first, ...others], error);
    // Another one is the first next time.
    this.setAside([...others, ...waiting, first]);
  }

  private setAside(ends: readonly AttemptEnd[]): void {
    if (!this.refused.waits) this.tries++;
    this.refused.add(ends, Math.min(RETRY_AFTER * 2 ** (this.tries - 1), LONGEST_RETRY));
  }

  /** Once for each reason. */
  private tell(ends: readonly AttemptEnd[], error: unknown): void {
    const reason = errorText(error);
    if (!this.reasons.isNew(reason)) return;
    this.logger.warn(`Recording how ${named(ends)} ended fails, and is tried until it works: ${reason}`);
  }
}

function named(ends: readonly AttemptEnd[]): string {
  const { name, id } = ends[0]!.call;
  const more = ends.length === 1 ? '' : ` and ${counted(ends.length - 1, 'other call')}`;
  return `${quoted(name)} (id ${id})${more}`;
}
