import { Logger } from '@nestjs/common';
import { clearTimeout, setTimeout } from '../common/timers.js';
import { unlessAborted, withDeadline } from '../common/waiting.js';
import type { RunDueResult } from '../contract/future-call.control-types.js';
import { FutureCallSessionError } from '../contract/future-call.errors.js';
import type { RegisteredHandler } from '../handlers/future-call.explorer.js';
import type { DueLook, FutureCallDueStore } from '../store/future-call.due-store.js';
import { FutureCallEngine, type EngineCounts } from './future-call.engine.js';

const NOTHING: EngineCounts = {
  started: 0,
  completed: 0,
  failed: 0,
  retried: 0,
  interrupted: 0,
  rescued: 0,
};
/** How long the answer to when the next call is due is waited for, in milliseconds. */
const LAST_LOOK = 3_000;

/** Runs what is due, and what becomes due meanwhile, in an engine of its own that ends with it. */
export class FutureCallDueRun {
  private readonly logger = new Logger('FutureCall');
  /** Aborted when its time is over, or when it is stopped: nothing starts any more. */
  private readonly over = new AbortController();
  private isStopped = false;

  /**
   * @param engine makes the one that runs the calls, if there are any
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
    const timer = setTimeout(() => this.over.abort(), this.milliseconds);
    try {
      // One statement, on the pool, when there is nothing to do: to become an instance takes a connection and many more.
      const before = await this.firstLook();
      const result =
        before.isDue || before.mayHaveToRescue
          ? await this.work(before)
          : resultOf(NOTHING, before.nextDueAt);
      if (before.mayPrune) await this.prune();
      return result;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Starts no call any more: what runs may finish. */
  stop(): void {
    this.isStopped = true;
    this.over.abort();
  }

  private get names(): string[] {
    return [...this.handlers.keys()];
  }

  private async firstLook(): Promise<DueLook> {
    const look = await unlessAborted(this.store.look(this.names), this.over.signal);
    if (look !== undefined) return look;
    throw new FutureCallSessionError(
      this.isStopped
        ? `runDue() was stopped before the database had said what is due, and has run nothing.`
        : `runDue() has run nothing: its for, ${this.milliseconds} ms, was over before the database had said what is due. ` +
            `Either that is too short, or no connection of the app's pool was free (a transaction that it is called in takes one), ` +
            `or somebody has locked a table of future calls.`,
    );
  }

  private async work(before: DueLook): Promise<RunDueResult> {
    const { signal } = this.over;
    const engine = this.engine();
    const { store } = engine.parts;
    let nextDueAt: number | null | undefined;
    let failure: unknown;
    try {
      await this.start(engine);
      await engine.exhaust(signal);
      this.warnOfUnjudged(engine.parts.rescuer.unjudged);
    } finally {
      await engine.drain(async () => {
        nextDueAt = await store.nextDueAt(this.names).catch((error: unknown) => {
          failure = error;
          return undefined;
        });
      });
    }
    if (nextDueAt === undefined && engine.counts.started === 0) ({ nextDueAt } = before);
    return resultOf(
      engine.counts,
      nextDueAt === undefined ? await this.lastLook(engine.counts, failure) : nextDueAt,
    );
  }

  private async start(engine: FutureCallEngine): Promise<void> {
    const { signal } = this.over;
    try {
      await engine.start(signal);
    } catch (error) {
      if (!signal.aborted) throw error;
      // Stopped while it was connecting: nothing has started, and nothing will.
      if (this.isStopped) return;
      throw new FutureCallSessionError(
        `runDue() has run nothing: its for, ${this.milliseconds} ms, was over before it had a connection of its own to the database. ` +
          `Either that is too short, or the server does not answer there (sessionUrl, if it is set).`,
        { cause: error },
      );
    }
  }

  /** A cron job whose runs are all too short would leave a dead instance's calls for ever. */
  private warnOfUnjudged(ids: readonly number[]): void {
    if (ids.length === 0 || this.isStopped) return;
    this.logger.warn(
      `runDue() ended after ${this.milliseconds} ms, too soon to be sure that instance ${ids.join(', ')} is dead, and left its calls: ` +
        `give it a for of more than one and a half times rescueAfter.`,
    );
  }

  /** On the pool, when the session was lost. */
  private async lastLook(counts: EngineCounts, cause: unknown): Promise<number | null> {
    let look: DueLook | undefined;
    await withDeadline(LAST_LOOK, async (signal) => {
      look = await unlessAborted(
        this.store.look(this.names).catch(() => undefined),
        signal,
      );
    });
    if (look !== undefined) return look.nextDueAt;
    throw new FutureCallSessionError(
      `runDue() has run calls (${JSON.stringify(counts)}), and then the database did not say when the next one is due.`,
      { cause },
    );
  }

  /** What fails here is tried again by the next run, or by an instance. */
  private async prune(): Promise<void> {
    await unlessAborted(this.store.prune(), this.over.signal).catch((error: unknown) => {
      this.logger.warn(`Pruning old outcomes fails, and is tried again: ${String(error)}`);
    });
  }
}

function resultOf(counts: EngineCounts, nextDueAt: number | null): RunDueResult {
  return { ...counts, nextDueAt: nextDueAt === null ? null : new Date(nextDueAt) };
}
