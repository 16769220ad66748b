import { clearTimeout, monotonic, setTimeout } from '../common/timers.js';

/** Tells when a call becomes due, by the database's clock, to which every claim ties it. */
export class FutureCallDueTimer {
  private timer: NodeJS.Timeout | undefined;
  private setFor = Infinity;
  /** What to add to this process's monotonic clock to get the database's, at most. */
  private offset: number | undefined;

  /** @param longest milliseconds; what is due later is found by the poll */
  constructor(
    private readonly longest: number,
    private readonly becameDue: () => void,
  ) {}

  /**
   * The database's clock said `now` in the answer to a statement that was sent then. Since the sending, not the answer:
   * this clock may be ahead of the database's, which costs a claim too many, but not behind, which would make calls late.
   */
  tie(now: number, sentAt: number): void {
    this.offset = now - sentAt;
  }

  /** Whether a call that is due then is due. As long as nothing is known of the database's clock, all are. */
  isDue(dueAt: number): boolean {
    return this.offset === undefined || dueAt <= monotonic() + this.offset;
  }

  /** Sets it to a moment of the database's clock, unless it is set to an earlier one. */
  set(dueAt: number): void {
    if (dueAt >= this.setFor || this.offset === undefined) return;
    const wait = dueAt - (monotonic() + this.offset);
    if (wait > this.longest) return;
    clearTimeout(this.timer);
    this.setFor = dueAt;
    this.timer = setTimeout(
      () => {
        this.setFor = Infinity;
        this.becameDue();
      },
      Math.max(1, Math.ceil(wait)),
    );
  }

  clear(): void {
    clearTimeout(this.timer);
    this.setFor = Infinity;
  }
}
