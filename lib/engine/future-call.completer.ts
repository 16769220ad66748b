import { nextTurn, sleep } from '../common/timers.js';
import { FutureCallEndingStore, type AttemptEnd } from '../store/future-call.ending-store.js';
import { FutureCallSession } from '../store/future-call.session.js';
import { FutureCallRecorder } from './future-call.recorder.js';

/** How many ends go into one round of statements. */
const LARGEST_BATCH = 5_000;
/** How often to look whether what was set aside is recorded, in milliseconds. */
const LOOK_EVERY = 100;

/**
 * Records how attempts ended, in batches that nobody waits for: while one is on its way, the next ends collect. While the
 * session is lost they wait; a call stays known until its end is confirmed.
 */
export class FutureCallCompleter {
  private isStopped = false;
  private waiting: AttemptEnd[] = [];
  /** On their way to the server. */
  private sent: AttemptEnd[] = [];
  private isRecording = false;
  private recording = Promise.resolve();
  private confirmed: (ends: readonly AttemptEnd[]) => void = () => {};
  private readonly completed: FutureCallRecorder;
  private readonly failed: FutureCallRecorder;
  private readonly retried: FutureCallRecorder;

  constructor(
    store: FutureCallEndingStore,
    private readonly session: FutureCallSession,
  ) {
    const recorder = (send: FutureCallEndingStore['complete']) =>
      new FutureCallRecorder(
        session,
        send,
        (ends) => this.again(ends),
        (ends) => this.confirmed(ends),
      );
    this.completed = recorder((ends) => store.complete(ends));
    this.failed = recorder((ends) => store.fail(ends));
    this.retried = recorder((ends) => store.retry(ends));
  }

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
    return [...this.sent, ...this.waiting, ...this.aside];
  }

  /** Whether everything that was added is recorded, or has been set aside. */
  get isEmpty(): boolean {
    return !this.isRecording && this.waiting.length === 0;
  }

  /** Resolves when everything that was added is recorded, or the signal is aborted. */
  async settled(signal: AbortSignal): Promise<void> {
    await this.recording;
    while (this.waiting.length + this.aside.length > 0 && !signal.aborted) {
      await sleep(LOOK_EVERY, signal);
      await this.recording;
    }
  }

  /** Records nothing any more. What is not recorded stays unconfirmed: coming back must not release what has run. */
  stop(): void {
    this.isStopped = true;
    for (const recorder of this.recorders) recorder.stop();
  }

  private get recorders(): readonly FutureCallRecorder[] {
    return [this.completed, this.failed, this.retried];
  }

  private get aside(): AttemptEnd[] {
    return this.recorders.flatMap(({ aside }) => aside);
  }

  private again(ends: readonly AttemptEnd[]): void {
    this.waiting = [...ends, ...this.waiting];
    this.resume();
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

  /** All kinds are sent at once; the session runs them in turn. */
  private async recordBatch(ends: readonly AttemptEnd[]): Promise<void> {
    const failures = ends.filter(({ error }) => error !== null);
    await Promise.all([
      this.completed.record(failures.length === 0 ? ends : ends.filter(({ error }) => error === null)),
      this.failed.record(failures.filter(({ next }) => next === undefined)),
      this.retried.record(failures.filter(({ next }) => next !== undefined)),
    ]);
  }
}
