import { Logger } from '@nestjs/common';
import { sleep } from '../common/timers.js';
import type { ResolvedOptions } from '../module/future-call.options.js';
import type { FutureCallOutcome } from '../contract/future-call.types.js';
import { FutureCallEngineStore } from '../store/future-call.engine-store.js';
import { FutureCallSession } from '../store/future-call.session.js';
import { PRUNE_BATCH } from '../store/future-call.engine-sql.js';

/** The longest time between two rounds, in milliseconds; shorter where something is kept for less. */
const LONGEST_PERIOD = 600_000;
/** Between two batches of one round, so that claims are not kept waiting, in milliseconds. */
const BREATH = 50;

/** Deletes outcomes that were kept long enough, in small batches. All instances try; a lock lets one at a time. */
export class FutureCallPruner {
  private readonly logger = new Logger('FutureCall');
  private readonly stopped = new AbortController();
  private pruning: Promise<void> | undefined;

  constructor(
    private readonly options: ResolvedOptions,
    private readonly store: FutureCallEngineStore,
    private readonly session: FutureCallSession,
  ) {}

  start(): void {
    const limits = Object.entries(this.options.retention) as [FutureCallOutcome, number][];
    // What is not kept may have been, until the option was changed. What is kept for ever is left alone.
    const prunable = limits.filter(([, keptFor]) => keptFor !== Infinity);
    if (prunable.length > 0) this.pruning = this.pruneRegularly(prunable);
  }

  async stop(): Promise<void> {
    this.stopped.abort();
    await this.pruning;
  }

  private async pruneRegularly(limits: [FutureCallOutcome, number][]): Promise<void> {
    const { signal } = this.stopped;
    const shortest = Math.min(...limits.map(([, keptFor]) => keptFor || LONGEST_PERIOD), LONGEST_PERIOD);
    while (!signal.aborted) {
      // Instances that booted together need not come together.
      await sleep(shortest * (0.5 + Math.random() / 2), signal);
      try {
        for (const [outcome, keptFor] of limits) await this.prune(outcome, keptFor, signal);
      } catch (error) {
        this.logger.debug(`Pruning failed, and is tried again later: ${String(error)}`);
      }
    }
  }

  private async prune(outcome: FutureCallOutcome, keptFor: number, signal: AbortSignal): Promise<void> {
    while (!signal.aborted && this.session.isOpen) {
      const deleted = await this.store.prune(outcome, keptFor);
      if (deleted < PRUNE_BATCH) return;
      await sleep(BREATH, signal);
    }
  }
}
