import { clearTimeout, setTimeout } from '../common/timers.js';
import type { AttemptEnd } from '../store/future-call.ending-store.js';

/** Ends that wait to be tried again. They stay here, and known, until they are taken. */
export class EndsAside {
  private waiting: readonly AttemptEnd[] = [];
  private timer: NodeJS.Timeout | undefined;
  private isStopped = false;

  constructor(private readonly due: (ends: readonly AttemptEnd[]) => void) {}

  get ends(): readonly AttemptEnd[] {
    return this.waiting;
  }

  /** Whether a timer is set. */
  get waits(): boolean {
    return this.timer !== undefined;
  }

  /** In so many milliseconds all that is here by then is due, unless it is before. */
  add(ends: readonly AttemptEnd[], wait: number): void {
    this.waiting = [...this.waiting, ...ends];
    if (this.isStopped) return;
    this.timer ??= setTimeout(() => {
      this.timer = undefined;
      this.due(this.waiting);
    }, wait);
  }

  take(): readonly AttemptEnd[] {
    const { waiting } = this;
    this.waiting = [];
    return waiting;
  }

  /** Nothing is due any more. */
  stop(): void {
    this.isStopped = true;
    clearTimeout(this.timer);
  }
}
