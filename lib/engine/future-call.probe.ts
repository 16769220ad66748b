import { clearTimeout, monotonic, nextTurn, setTimeout, sleep } from '../common/timers.js';
import type { ResolvedOptions } from '../module/future-call.options.js';
import type { SessionState } from '../store/future-call.second-look.js';
import { FutureCallSession } from '../store/future-call.session.js';

/**
 * When an answer is overdue, in shares of `rescueAfter`: somewhere from the first one on, so that a slow server does not
 * hear of it from everybody in one instant. A look comes every half of `rescueAfter`, and others rescue after all of it: by
 * then a connection has to be lost, asked about and replaced, with nearly a third of `rescueAfter` left for it.
 */
const OVERDUE = 1 / 8;
const OVERDUE_SPREAD = 1 / 16;
/** The least time from one second connection to the next, in milliseconds, and the longest that one may take. */
const BETWEEN = 5_000;
/** What a second connection is given for its answer when little time is left, in milliseconds. */
const ANSWER = 1_000;
/** The least time an answer may take before the session is given up, in milliseconds. */
const SHORTEST_DEADLINE = 5_000;

/**
 * Watches over what is asked of the session, and tells a connection that is dead from a server that is slow. When its
 * backend is gone, so is the lock, and others count down: the session is given up at once. While the server works it is
 * not, however long that takes: nobody can rescue who holds the lock, and a new connection would be no faster.
 */
export class FutureCallProbe {
  private readonly stopped = new AbortController();
  /** Before that, no second connection is made. */
  private nextAt = -Infinity;

  constructor(
    private readonly options: ResolvedOptions,
    private readonly session: FutureCallSession,
  ) {}

  /** What is watched from now on has its deadline and no more. */
  stop(): void {
    this.stopped.abort();
  }

  /** Waits for `work`, which `what` names, and gives the session up when its answer does not come. */
  async watch<T>(what: string, work: () => Promise<T>): Promise<T> {
    const answered = new AbortController();
    void this.wait(what, answered.signal);
    try {
      return await work();
    } finally {
      answered.abort();
    }
  }

  private async wait(what: string, answered: AbortSignal): Promise<void> {
    const deadline = Math.max(2 * this.options.rescueAfter, SHORTEST_DEADLINE);
    const sentAt = monotonic();
    const overdueAt = sentAt + this.options.rescueAfter * (OVERDUE + Math.random() * OVERDUE_SPREAD);
    // Not before a second connection can have told.
    let giveUpAt = Math.max(sentAt + deadline, this.nextAt + ANSWER);
    for (;;) {
      const lookAt = this.stopped.signal.aborted ? Infinity : Math.max(overdueAt, this.nextAt);
      await sleep(Math.min(lookAt, giveUpAt) - monotonic(), answered);
      // After the loop was blocked, timers come before the answer that has been there for long.
      await nextTurn();
      if (answered.aborted) return;
      if (monotonic() >= giveUpAt) {
        this.session.abandon(`no answer to ${what} within ${deadline} ms`);
        return;
      }
      if (monotonic() < lookAt || this.stopped.signal.aborted) continue;
      this.nextAt = monotonic() + BETWEEN * (1 + Math.random() / 4);
      const state = await this.lookFromOutside(Math.min(giveUpAt - monotonic(), BETWEEN), answered);
      if (answered.aborted) return;
      if (state === 'lost') {
        this.session.abandon(
          `its backend ${this.session.backendPid} is gone, and our lock with it, as a second connection has found: no answer to ${what} will come`,
        );
        return;
      }
      if (state === 'busy') giveUpAt = this.nextAt + deadline;
    }
  }

  /** Never throws: what cannot be found out is not known, and the deadline decides. */
  private async lookFromOutside(milliseconds: number, answered: AbortSignal): Promise<SessionState> {
    const over = new AbortController();
    const stop = () => over.abort();
    const timer = setTimeout(stop, milliseconds);
    answered.addEventListener('abort', stop);
    this.stopped.signal.addEventListener('abort', stop);
    try {
      return await this.session.lookFromOutside(over.signal);
    } catch {
      return 'unknown';
    } finally {
      clearTimeout(timer);
      answered.removeEventListener('abort', stop);
      this.stopped.signal.removeEventListener('abort', stop);
    }
  }
}
