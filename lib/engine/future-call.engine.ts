import { Logger } from '@nestjs/common';
import { errorText } from '../common/describe-error.js';
import { unlessAborted, withDeadline } from '../common/waiting.js';
import { FutureCallSessionError } from '../contract/future-call.errors.js';
import type { RunDueResult } from '../contract/future-call.control-types.js';
import type { RegisteredHandler } from '../handlers/future-call.explorer.js';
import type { FutureCallInstanceStore } from '../store/future-call.instance-store.js';
import type { SessionListener } from '../store/future-call.session.js';
import { FutureCallDrain } from './future-call.drain.js';
import { assembleEngine, type EngineParts, type EngineSurroundings } from './future-call.engine-parts.js';

/** How often to look for calls that no instance has a handler for, in milliseconds. */
const CHECK_HANDLERS_EVERY = 600_000;

/** How long the ends of calls are waited for that the database refuses to record, in milliseconds. */
const RECORD_WITHIN = 3_000;

/** What has become of the calls of one engine. */
export type EngineCounts = Omit<RunDueResult, 'nextDueAt'>;

/**
 * What executes calls, from its registration as an instance to the end of its drain. For each start a new one is made:
 * nothing of the last one, no timer, no watermark, no signal, can be left in it.
 */
export class FutureCallEngine implements SessionListener {
  readonly parts: EngineParts;
  private readonly logger = new Logger('FutureCall');
  private interrupted = 0;
  private looks = 0;
  private draining: Promise<void> | undefined;

  /**
   * @param handlers those that it runs
   * @param limit how many calls it claims in all
   * @param check looks for calls that nobody has a handler for, if it is to
   */
  constructor(
    private readonly around: EngineSurroundings,
    private readonly handlers: ReadonlyMap<string, RegisteredHandler>,
    limit: number,
    private readonly check: (instances: FutureCallInstanceStore) => Promise<void> = async () => {},
  ) {
    this.parts = assembleEngine(around, limit);
  }

  get counts(): EngineCounts {
    const { executor, rescuer } = this.parts;
    return { ...executor.counts, interrupted: this.interrupted, rescued: rescuer.rescued };
  }

  /**
   * Registers, and begins to claim unless the signal is aborted by then. Throws what connecting throws, or
   * `FutureCallSessionError`; only to drain it is of use then.
   */
  async start(signal?: AbortSignal): Promise<void> {
    const { session, executor, poller, rescuer, pruner } = this.parts;
    const attempts = [...this.handlers.values()].map(({ name, options }) => [name, options.attempts ?? 1]);
    await session.start(Object.fromEntries(attempts) as Record<string, number>, this, signal);
    this.around.events.emit({ type: 'connected', instanceId: session.instance.id });
    if (signal?.aborted) return;
    executor.start(this.handlers.values(), () => poller.slotFreed());
    rescuer.start(() => this.answered());
    poller.start(this.handlers.keys());
    pruner.start();
  }

  /**
   * Claims nothing any more, and waits for what runs. Can be called twice.
   *
   * @param lastStatement what to ask before the session ends; the database may be away
   */
  async drain(lastStatement: () => Promise<void> = async () => {}): Promise<void> {
    await (this.draining ??= new FutureCallDrain(this.parts, this.around)
      .run(lastStatement)
      .then((interrupted) => void (this.interrupted = interrupted)));
  }

  /**
   * Resolves when nothing is due any more that it may claim, nothing runs, and nobody is missing whose calls it may have
   * to rescue; or when the signal is aborted. Throws why claiming fails.
   */
  async exhaust(signal: AbortSignal): Promise<void> {
    const { executor, completer, poller, rescuer } = this.parts;
    while (!signal.aborted) {
      await unlessAborted(executor.idle(), signal);
      // One that has ended may be pending again, and due.
      await withDeadline(RECORD_WITHIN, (late) => completer.settled(AbortSignal.any([late, signal])));
      if (!executor.isIdle || !completer.isEmpty) continue;
      if (!(await poller.findsNothing(signal))) continue;
      // What is taken from a dead instance may be due, and something may become due while it is judged.
      if (rescuer.isSure) return;
      await rescuer.nextLook(signal);
    }
  }

  /** Warns of calls that nobody has a handler for: after the start, and from time to time. */
  async checkHandlers(): Promise<void> {
    await this.check(this.parts.instances);
  }

  lost(error: Error): void {
    const { rescuer, session } = this.parts;
    rescuer.reset();
    const { id } = session.instance;
    this.logger.warn(`Instance ${id} lost its session, and reconnects: ${whyLost(error)}`);
    this.around.events.emit({ type: 'disconnected', instanceId: id, error });
  }

  async restored(whyAnother: string | undefined): Promise<void> {
    const { session, releaser, executor, completer, poller } = this.parts;
    const { id } = session.instance;
    if (whyAnother === undefined) {
      // A claim whose answer was lost may have been committed: its calls are ours, and nobody here knows them.
      await releaser.releaseUnknown(executor.knownCalls());
      this.logger.log(`Instance ${id} has its session back.`);
    } else {
      // Whether it was taken for dead or somebody has removed its row: what had not started may have been given away, and
      // what runs may run elsewhere too.
      executor.forgetQueued();
      releaser.forget();
      executor.abort(
        new Error(
          `This process goes on as another instance (${whyAnother}); the call may have been given to somebody else.`,
        ),
      );
      this.logger.warn(`This process goes on as instance ${id}: ${whyAnother}.`);
    }
    this.around.events.emit({ type: 'connected', instanceId: id });
    executor.resume();
    completer.resume();
    poller.poll();
  }

  notified(payload: string): void {
    this.parts.poller.notified(payload);
  }

  /** The session works: what waited for that may start. And time has passed: a deploy may have left calls behind. */
  private answered(): void {
    this.parts.executor.resume();
    const looks = CHECK_HANDLERS_EVERY / (this.around.options.rescueAfter / 2);
    if (++this.looks >= looks) {
      this.looks = 0;
      void this.checkHandlers();
    }
  }
}

/** What we say ourselves is said; what the driver makes of a connection that we have ended is its cause, and no news. */
function whyLost(error: Error): string {
  return error instanceof FutureCallSessionError ? error.message : errorText(error);
}
