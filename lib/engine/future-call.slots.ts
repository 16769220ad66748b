import { monotonic } from '../common/timers.js';
import type { RegisteredHandler } from '../handlers/future-call.explorer.js';
import type { ResolvedOptions } from '../module/future-call.options.js';
import type { ClaimedCall } from '../store/future-call.claim-store.js';
import { FutureCallSpeed } from './future-call.speed.js';

/** How much may be claimed now. */
export interface Capacity {
  readonly total: number;
  /** For one handler; never more than `total`. */
  of(name: string): number;
}

/** A handler, its claimed calls and its slots. */
export interface HandlerSlots {
  readonly handler: RegisteredHandler;
  readonly limit: number;
  readonly speed: FutureCallSpeed;
  /** Claimed, not started: at most the prefetch. */
  readonly queue: ClaimedCall[];
  running: number;
  /** How often it was seen with a queue of which nothing had started. */
  stalledLooks: number;
}

/** The most that is claimed ahead of free slots, over all handlers. */
export const MAX_PREFETCH = 4_000;

/**
 * Which call may start, within the limits of the module and of each handler; and how much may be claimed: for the slots
 * that are free, and ahead of them.
 */
export class FutureCallSlots {
  private readonly handlers = new Map<string, HandlerSlots>();
  /** Handlers with a queue, in the order in which they take turns. */
  private waiting: HandlerSlots[] = [];
  private queued = 0;
  private running = 0;

  constructor(private readonly options: ResolvedOptions) {}

  open(handlers: Iterable<RegisteredHandler>): void {
    for (const handler of handlers) {
      const { concurrency } = this.options;
      const limit = Math.min(handler.options.concurrency ?? concurrency, concurrency);
      this.handlers.set(handler.name, {
        handler,
        limit,
        speed: new FutureCallSpeed(),
        queue: [],
        running: 0,
        stalledLooks: 0,
      });
    }
  }

  /** How many more calls of that handler would start at once. */
  freeFor(name: string): number {
    const state = this.handlers.get(name);
    if (state === undefined) return 0;
    return Math.min(this.options.concurrency - this.running - this.queued, freeSlots(state));
  }

  /** What may be claimed now, or undefined when it is not worth a statement yet. */
  capacity(): Capacity | undefined {
    const now = monotonic();
    const part = this.partOfEach(now);
    let ahead = 0;
    let spokenFor = 0;
    for (const state of this.handlers.values()) {
      ahead += this.ahead(state, now, part);
      spokenFor += Math.min(state.queue.length, state.limit - state.running);
    }
    ahead = Math.min(ahead, MAX_PREFETCH);
    const slots = Math.max(0, this.options.concurrency - this.running - spokenFor);
    const room = Math.max(0, ahead - this.queued);
    // With all slots busy, let the prefetch shrink to half before it is filled up: fewer and larger claims.
    if (slots === 0 && room < Math.max(1, ahead / 2)) return undefined;
    const total = slots + room;
    return {
      total,
      of: (name) => {
        const state = this.handlers.get(name)!;
        const { speed, queue } = state;
        const free = freeSlots(state) + Math.max(0, this.ahead(state, now, part) - queue.length);
        // One at least, however long it keeps the event loop.
        const soon = Math.max(1, Math.floor(speed.startsPerWindow(now, part))) - queue.length;
        return Math.max(0, Math.min(total, free, soon));
      },
    };
  }

  /** How many of its calls are claimed ahead of its slots. */
  private ahead({ speed, limit }: HandlerSlots, now: number, part: number): number {
    return this.options.prefetch ? speed.perWindow(now, limit, part) : 0;
  }

  /** Handlers that have calls share the slots and the event loop. */
  private partOfEach(now: number): number {
    let busy = 0;
    for (const { speed } of this.handlers.values()) if (speed.isKnown(now)) busy++;
    return 1 / Math.max(1, busy);
  }

  /** Queues claimed calls. */
  enqueue(calls: readonly ClaimedCall[]): void {
    for (const call of calls) {
      const state = this.handlers.get(call.name)!;
      if (state.queue.push(call) > 1) continue;
      this.waiting.push(state);
      state.stalledLooks = 0;
    }
    this.queued += calls.length;
  }

  /** Whether claimed calls wait. */
  get hasQueued(): boolean {
    return this.queued > 0;
  }

  /** Whether a call waits and the module has a slot. Its handler may still have none. */
  get mayHaveNext(): boolean {
    return this.queued > 0 && this.running < this.options.concurrency;
  }

  /** The handler whose turn it is, with a call in its queue and a slot; it has to `take`. Who had one goes to the end. */
  next(): HandlerSlots | undefined {
    const index = this.waiting.findIndex(({ running, limit }) => running < limit);
    const state = this.waiting[index];
    // A handler that waits alone goes to its own end: nothing is moved for each of its calls.
    if (state === undefined || (this.waiting.length === 1 && state.queue.length > 1)) return state;
    this.waiting.splice(index, 1);
    if (state.queue.length > 1) this.waiting.push(state);
    return state;
  }

  /** Takes a handler's first call out of its queue, and a slot for it. */
  take(state: HandlerSlots): ClaimedCall {
    this.queued--;
    this.running++;
    state.running++;
    state.stalledLooks = 0;
    return state.queue.shift()!;
  }

  /** A call that was taken has ended. */
  free(state: HandlerSlots): void {
    this.running--;
    state.running--;
  }

  /** Calls that were claimed and have not been taken. */
  queuedCalls(): ClaimedCall[] {
    return [...this.handlers.values()].flatMap(({ queue }) => queue);
  }

  /** Hands them out, and forgets them. */
  takeQueued(): ClaimedCall[] {
    const calls = this.queuedCalls();
    for (const state of this.waiting) state.queue.length = 0;
    this.waiting = [];
    this.queued = 0;
    return calls;
  }

  /**
   * Hands the queues out of which nothing has started since so many calls of this, and forgets them. What was thought of
   * their handlers' speed is wrong.
   */
  takeStalled(looks: number): ClaimedCall[] {
    const stalled = this.waiting.filter((state) => ++state.stalledLooks > looks);
    if (stalled.length === 0) return [];
    this.waiting = this.waiting.filter((state) => !stalled.includes(state));
    return stalled.flatMap((state) => {
      state.speed.forget();
      const calls = state.queue.splice(0);
      this.queued -= calls.length;
      return calls;
    });
  }
}

function freeSlots({ limit, running, queue }: HandlerSlots): number {
  return Math.max(0, limit - running - queue.length);
}
