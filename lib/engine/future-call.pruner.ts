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
/** Between two batches of one round, so that claims are not kept waiting, in milliseconds. */
const BREATH = 50;

/** Deletes outcomes that were kept long enough, in small batches. All instances try; a lock lets one at a time. */
export class FutureCallPruner {
  private readonly logger = new Logger('FutureCall');
  private readonly stopped = new AbortController();
  private readonly failures = new ToldReasons();
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
    const shortest = Math.min(
      ...keptFor.map((milliseconds) => milliseconds || LONGEST_PERIOD),
      LONGEST_PERIOD,
    );
    while (!signal.aborted) {
      // Instances that booted together need not come together.
      await sleep(shortest * (0.5 + Math.random() / 2), signal);
      try {
        if (!this.session.isOpen) continue;
        await this.prune(signal);
        if (this.failures.forget()) this.logger.log('Deleting old outcomes works again.');
      } catch (error) {
        // Without a session there will be another one, and what ended this one has been told.
        if (!this.session.isOpen || !this.failures.isNew(errorText(error))) continue;
        this.logger.warn(`Deleting old outcomes fails, and is tried again later: ${errorText(error)}`);
      }
    }
  }

  private async prune(signal: AbortSignal): Promise<void> {
    while (!signal.aborted && this.session.isOpen) {
      if ((await this.store.prune()) < PRUNE_BATCH) return;
      await sleep(BREATH, signal);
    }
  }
}
