import { withDeadline } from '../common/waiting.js';
import type { RunDueResult } from '../contract/future-call.control-types.js';
import type { RegisteredHandler } from '../handlers/future-call.explorer.js';
import type { DueLook, FutureCallDueStore } from '../store/future-call.due-store.js';
import { FutureCallEngine, type EngineCounts } from './future-call.engine.js';

const NOTHING: EngineCounts = { started: 0, completed: 0, failed: 0, retried: 0, interrupted: 0 };

/** Runs what is due, and what becomes due meanwhile, in an engine of its own that ends with it. */
export class FutureCallDueRun {
  private readonly stopped = new AbortController();

  /**
   * @param engine makes the one that runs them, if there is something to run
   * @param milliseconds for how long calls are started
   */
  constructor(
    private readonly store: FutureCallDueStore,
    private readonly handlers: ReadonlyMap<string, RegisteredHandler>,
    private readonly engine: () => FutureCallEngine,
    private readonly milliseconds: number,
  ) {}

  /** Throws what connecting and claiming throw. */
  async run(): Promise<RunDueResult> {
    const before = await this.look();
    // One statement, on the pool, when there is nothing to do: it takes a connection and twenty to become an instance.
    const hasWork = (before.isDue || before.mayHaveToRescue) && !this.stopped.signal.aborted;
    const counts = hasWork ? await this.work() : NOTHING;
    if (before.mayPrune) await this.store.prune();
    const { nextDueAt } = hasWork ? await this.look() : before;
    return { ...counts, nextDueAt: nextDueAt === null ? null : new Date(nextDueAt) };
  }

  /** Starts no call any more: what runs may finish. */
  stop(): void {
    this.stopped.abort();
  }

  private look(): Promise<DueLook> {
    return this.store.look([...this.handlers.keys()]);
  }

  private async work(): Promise<EngineCounts> {
    const engine = this.engine();
    await engine.start();
    try {
      await engine.checkHandlers();
      await withDeadline(this.milliseconds, (signal) =>
        engine.exhaust(AbortSignal.any([signal, this.stopped.signal])),
      );
    } finally {
      await engine.drain();
    }
    return engine.counts;
  }
}
