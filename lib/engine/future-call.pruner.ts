import { Logger } from '@nestjs/common';
import { errorText } from '../common/describe-error.js';
import { sleep } from '../common/timers.js';
import { ToldReasons } from '../common/told-reasons.js';
import { keptForATime, type ResolvedOptions } from '../module/future-call.options.js';
import { FutureCallEndingStore } from '../store/future-call.ending-store.js';
import { FutureCallSession } from '../store/future-call.session.js';
import { PRUNE_BATCH } from '../store/future-call.sql.js';

/** The longest time between two rounds, in milliseconds; shorter where something is kept for less. */
const LONGEST_PERIOD = 600_000;
/** The first round comes within this, in milliseconds: where no process lives for long, nobody else would ever prune. */
const FIRST_WITHIN = 15_000;
/** Between two batches of one round, so that claims are not kept waiting, in milliseconds. */
const BREATH = 50;

/** Deletes outcomes that were kept long enough, in small batches. All instances try; a lock lets one at a time. */
export class FutureCallPruner {
  private readonly logger = new Logger('FutureCall');
  private readonly stopped = new AbortController();
  private readonly reasons = new ToldReasons();
  private pruning: Promise<void> | undefined;

  constructor(
    private readonly options: ResolvedOptions,
    private readonly store: FutureCallEndingStore,
    private readonly session: FutureCallSession,
  ) {}

  start(): void {
    const [outcomes, milliseconds] = keptForATime(this.options);
    if (outcomes.length > 0) this.pruning = this.pruneRegularly(milliseconds);
  }

  async stop(): Promise<void> {
    this.stopped.abort();
    await this.pruning;
  }

  private async pruneRegularly(keptFor: number[]): Promise<void> {
    const { signal } = this.stopped;
    const period = Math.min(...keptFor.map((milliseconds) => milliseconds || LONGEST_PERIOD), LONGEST_PERIOD);
    const soon = Math.min(period, FIRST_WITHIN);
    let failures = 0;
    // Instances that booted together need not come together.
    await sleep(soon * Math.random(), signal);
    while (!signal.aborted) {
      let wait = period;
      try {
        if (await this.prune(signal)) {
          failures = 0;
          if (this.reasons.forget()) this.logger.log('Deleting old outcomes works again.');
        } else wait = soon;
      } catch (error) {
        wait = Math.min(soon * 2 ** failures++, LONGEST_PERIOD);
        const reason = errorText(error);
        if (this.reasons.isNew(reason))
          this.logger.warn(`Deleting old outcomes fails, and is tried again later: ${reason}`);
      }
      await sleep(wait * (0.5 + Math.random() / 2), signal);
    }
  }

  /** All that is old, batch by batch. False when the session was lost meanwhile, which is told elsewhere. */
  private async prune(signal: AbortSignal): Promise<boolean> {
    while (!signal.aborted && this.session.isOpen) {
      try {
        if ((await this.store.prune()) < PRUNE_BATCH) return true;
      } catch (error) {
        if (this.session.isOpen) throw error;
        return false;
      }
      await sleep(BREATH, signal);
    }
    return false;
  }
}
