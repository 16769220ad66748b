import { Logger } from '@nestjs/common';
import { errorText } from '../common/describe-error.js';
import { clearTimeout, nextTurn, setTimeout, sleep } from '../common/timers.js';
import { FutureCallEngineStore, type AttemptEnd } from '../store/future-call.engine-store.js';
import { FutureCallSession } from '../store/future-call.session.js';

/** How many ends go into one statement. */
const LARGEST_BATCH = 5_000;
/** How long to wait before trying again on a session that works, in milliseconds: after a deadlock, say. */
const RETRY_AFTER = 100;
/** The longest such wait: each one is twice as long as the one before. */
const LONGEST_RETRY = 5_000;

/**
 * Records how attempts ended, in batches that nobody waits for: while one statement is on its way, the next ends
 * collect. While the session is lost they wait; a call stays known until its end is confirmed.
 */
export class FutureCallCompleter {
  private readonly logger = new Logger('FutureCall');
  private isStopped = false;
  private waiting: AttemptEnd[] = [];
  /** On their way to the server. */
  private sent: AttemptEnd[] = [];
  /** Ends that were set aside, and when they are tried again. */
  private readonly aside = new Map<AttemptEnd, NodeJS.Timeout>();
  private readonly tries = new WeakMap<AttemptEnd, number>();
  private isRecording = false;
  private recording = Promise.resolve();
  private confirmed: (ends: readonly AttemptEnd[]) => void = () => {};

  constructor(
    private readonly store: FutureCallEngineStore,
    private readonly session: FutureCallSession,
  ) {}

  /** Who is told that ends are recorded. */
  onConfirmed(listener: (ends: readonly AttemptEnd[]) => void): void {
    this.confirmed = listener;
  }

  add(end: AttemptEnd): void {
    this.waiting.push(end);
    this.resume();
  }

  /** Goes on after the session was lost. */
  resume(): void {
    if (!this.isRecording) this.recording = this.record();
  }

  /** Every end that was added and may not be recorded yet. */
  unconfirmed(): AttemptEnd[] {
    return [...this.sent, ...this.waiting, ...this.aside.keys()];
  }

  /** Whether everything that was added is recorded, or has been set aside. */
  get isEmpty(): boolean {
    return !this.isRecording && this.waiting.length === 0;
  }

  /** Resolves when everything that was added is recorded, or the signal is aborted. */
  async settled(signal: AbortSignal): Promise<void> {
    await this.recording;
    while (this.waiting.length + this.aside.size > 0 && !signal.aborted) {
      await sleep(RETRY_AFTER, signal);
      await this.recording;
    }
  }

  /** Records nothing any more. What is not recorded stays unconfirmed: coming back must not release what has run. */
  stop(): void {
    this.isStopped = true;
    for (const timer of this.aside.values()) clearTimeout(timer);
  }

  private async record(): Promise<void> {
    this.isRecording = true;
    try {
      // What ends in the same turn of the event loop goes together.
      await nextTurn();
      while (this.waiting.length > 0 && this.session.isOpen && !this.isStopped) {
        this.sent = this.waiting.splice(0, LARGEST_BATCH);
        await this.recordBatch(this.sent);
        this.sent = [];
      }
    } finally {
      // In the same turn as the last look at what is waiting.
      this.isRecording = false;
    }
  }

  private async recordBatch(batch: AttemptEnd[]): Promise<void> {
    try {
      await this.store.end(batch);
      this.confirmed(batch);
    } catch (error) {
      if (!this.session.isOpen) {
        this.waiting = [...batch, ...this.waiting];
      } else if (batch.length > 1) {
        // If it is one of them, a trigger of the user's on its row perhaps, the others must not wait for it.
        const half = batch.length >> 1;
        await this.recordBatch(batch.slice(0, half));
        await this.recordBatch(batch.slice(half));
      } else {
        this.tryLater(batch[0]!, error);
      }
    }
  }

  /** Sets it aside, so that no other end waits for it. */
  private tryLater(end: AttemptEnd, error: unknown): void {
    const tries = (this.tries.get(end) ?? 0) + 1;
    this.tries.set(end, tries);
    const { name, id } = end.call;
    const failure = `Recording how "${name}" (id ${id}) ended fails, and is tried until it works: ${errorText(error)}`;
    if (tries === 1) this.logger.warn(failure);
    const timer = setTimeout(
      () => {
        this.aside.delete(end);
        this.add(end);
      },
      Math.min(RETRY_AFTER * 2 ** (tries - 1), LONGEST_RETRY),
    );
    this.aside.set(end, timer);
  }
}
