import { parseTimestamp } from '../common/timestamp.js';
import { quoted } from '../common/text.js';
import type { FutureCallContext } from '../contract/future-call.types.js';
import type { ClaimedCall } from '../store/future-call.claim-store.js';

/** One start of a call: what the handler gets to see of it. */
export class FutureCallAttempt implements FutureCallContext {
  readonly id: string;
  readonly name: string;
  readonly identifier: string | null;
  readonly dueAt: Date;
  readonly attempt: number;
  // What is private to the class is not printed with it.
  readonly #call: ClaimedCall;
  #place = 0;
  /** Made when a handler asks for it: most never do, and it is the dearest part of a start. */
  #controller: AbortController | undefined;
  #abortedFor: unknown;

  constructor(call: ClaimedCall) {
    this.id = call.id;
    this.name = call.name;
    this.identifier = call.identifier;
    this.dueAt = new Date(parseTimestamp(call.dueAt));
    this.attempt = call.attempt;
    this.#call = call;
  }

  get call(): ClaimedCall {
    return this.#call;
  }

  /** Its place among those that run. */
  get place(): number {
    return this.#place;
  }

  set place(place: number) {
    this.#place = place;
  }

  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.isAborted) this.#controller.abort(this.#abortedFor);
    }
    return this.#controller.signal;
  }

  get isAborted(): boolean {
    return this.#abortedFor !== undefined;
  }

  /** For an event: plain values, without the signal. */
  describe() {
    const { id, name, identifier, attempt } = this;
    return { id, name, identifier, attempt };
  }

  /** For the log. */
  toString(): string {
    const identifier = this.identifier === null ? '' : `, identifier ${quoted(this.identifier)}`;
    return `${quoted(this.name)} (id ${this.id}, attempt ${this.attempt}${identifier})`;
  }

  abort(reason: Error): void {
    if (this.isAborted) return;
    this.#abortedFor = reason;
    this.#controller?.abort(reason);
  }
}
