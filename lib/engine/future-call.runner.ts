import {
  Inject,
  Injectable,
  Logger,
  type OnApplicationBootstrap,
  type OnModuleDestroy,
} from '@nestjs/common';
import { counted } from '../common/text.js';
import { clearTimeout, setTimeout } from '../common/timers.js';
import { FutureCallRegistry } from '../handlers/future-call.registry.js';
import { FutureCallEvents } from '../contract/future-call.events.js';
import { FUTURE_CALL_OPTIONS, type ResolvedOptions } from '../module/future-call.options.js';
import { FutureCallWake } from '../contract/future-call.wake.js';
import { FutureCallEngineStore } from '../store/future-call.engine-store.js';
import { FutureCallInstanceStore } from '../store/future-call.instance-store.js';
import { FutureCallSchema } from '../store/future-call.schema.js';
import { FutureCallSession, type SessionListener } from '../store/future-call.session.js';
import { FutureCallCompleter } from './future-call.completer.js';
import { FutureCallExecutor } from './future-call.executor.js';
import { FutureCallPoller } from './future-call.poller.js';
import { FutureCallPruner } from './future-call.pruner.js';
import { FutureCallRescuer } from './future-call.rescuer.js';
import { DEFAULT_BACKOFF } from './future-call.retry-policy.js';
import { FutureCallSlots } from './future-call.slots.js';

/** How often to look for calls that no instance has a handler for, in milliseconds. */
const CHECK_HANDLERS_EVERY = 600_000;
/** How long a handler may take to end once its signal is aborted, in milliseconds. */
const ABORT_GRACE = 500;
/** How long the last statements of a drain may take, in milliseconds: the database may be away. */
const LAST_WORDS = 3_000;

/**
 * Starts what runs calls when the app has booted, and drains it when the app closes: the only place that knows Nest's
 * lifecycle. Its module must not be global: Nest destroys global modules last, after what handlers depend on.
 */
@Injectable()
export class FutureCallRunner implements OnApplicationBootstrap, OnModuleDestroy, SessionListener {
  private readonly logger = new Logger('FutureCall');
  private draining: Promise<void> | undefined;
  private isRunning = false;
  private looks = 0;
  private missingHandlers = '';

  constructor(
    @Inject(FUTURE_CALL_OPTIONS) private readonly options: ResolvedOptions,
    private readonly registry: FutureCallRegistry,
    private readonly schema: FutureCallSchema,
    private readonly session: FutureCallSession,
    private readonly store: FutureCallEngineStore,
    private readonly instances: FutureCallInstanceStore,
    private readonly poller: FutureCallPoller,
    private readonly slots: FutureCallSlots,
    private readonly executor: FutureCallExecutor,
    private readonly completer: FutureCallCompleter,
    private readonly rescuer: FutureCallRescuer,
    private readonly pruner: FutureCallPruner,
    private readonly wake: FutureCallWake,
    private readonly events: FutureCallEvents,
  ) {}

  async onApplicationBootstrap(): Promise<void> {
    const { handlers } = this.registry;
    await this.schema.ready();
    if (!this.options.execute) {
      this.logger.log('Ready to schedule future calls. This process runs none (execute: false).');
      return;
    }
    const attempts = [...handlers.values()].map(({ name, options }) => [name, options.attempts ?? 1]);
    await this.session.start(Object.fromEntries(attempts) as Record<string, number>, this);
    this.isRunning = true;
    this.executor.start(handlers.values(), () => this.poller.slotFreed());
    this.rescuer.start(() => this.answered());
    this.poller.start(handlers.keys());
    this.pruner.start();
    this.wake.attach(this.poller);
    await this.announce([...handlers.keys()]);
  }

  private async announce(names: readonly string[]): Promise<void> {
    const { id } = this.session.instance;
    this.events.emit({ type: 'connected', instanceId: id });
    this.logger.log(
      `Instance ${id} runs future calls, ${this.options.concurrency} at a time: ${names.join(', ') || 'no handlers'}.`,
    );
    await this.warnOfMissingHandlers();
  }

  /** The session works: what waited for that may start. And time has passed: a deploy may have left calls behind. */
  private answered(): void {
    this.executor.resume();
    const looks = CHECK_HANDLERS_EVERY / (this.options.rescueAfter / 2);
    if (++this.looks >= looks) {
      this.looks = 0;
      void this.warnOfMissingHandlers();
    }
  }

  /** Once for each change: while a deploy goes on, the old processes still have what the new ones lack. */
  private async warnOfMissingHandlers(): Promise<void> {
    const names = await this.instances.namesWithoutHandler().catch(() => []);
    const listed = names.map((name) => `"${name}"`).join(', ');
    if (listed !== '' && listed !== this.missingHandlers) {
      this.logger.warn(
        `Calls are pending that no running instance has a handler for: ${listed}. ` +
          `They stay until one has, or until they are cancelled.`,
      );
    }
    this.missingHandlers = listed;
  }

  /** Can be called twice. */
  async onModuleDestroy(): Promise<void> {
    if (this.isRunning) await (this.draining ??= this.drain());
    this.events.complete();
  }

  lost(error: Error): void {
    this.rescuer.reset();
    const { id } = this.session.instance;
    this.logger.warn(`Instance ${id} lost its session, and reconnects: ${error.message}`);
    this.events.emit({ type: 'disconnected', instanceId: id, error });
  }

  async restored(sameInstance: boolean): Promise<void> {
    const { id } = this.session.instance;
    if (sameInstance) {
      // A claim whose answer was lost may have been committed: its calls are ours, and nobody here knows them.
      await this.store.releaseUnknown(this.executor.knownCalls());
      this.logger.log(`Instance ${id} has its session back.`);
    } else {
      // Taken for dead: what had not started was given away, and what runs may run elsewhere too.
      this.slots.takeQueued();
      this.executor.abort(
        new Error('This instance was taken for dead; the call may have been given to another one.'),
      );
      this.logger.warn(`This process was taken for dead and goes on as instance ${id}.`);
    }
    this.events.emit({ type: 'connected', instanceId: id });
    this.executor.resume();
    this.completer.resume();
    this.poller.poll();
  }

  notified(payload: string): void {
    this.poller.notified(payload);
  }

  private async drain(): Promise<void> {
    this.wake.detach();
    this.executor.stop();
    await this.poller.stop();
    await this.releaseQueued();
    await this.finishRunning();
    await withDeadline(LAST_WORDS, (signal) => this.completer.settled(signal));
    this.completer.stop();
    await this.interruptRest();
    await this.pruner.stop();
    await this.rescuer.stop();
    await this.session.stop();
    this.logger.log(`Instance ${this.session.instance.id} has stopped.`);
  }

  private async releaseQueued(): Promise<void> {
    const calls = this.slots.takeQueued();
    if (calls.length === 0) return;
    try {
      const released = new Set(await this.store.release(calls));
      for (const { id, name, identifier } of calls) {
        if (released.has(id)) this.events.emit({ type: 'released', id, name, identifier });
      }
    } catch (error) {
      // They are forgotten here: coming back releases them, or whoever rescues this instance interrupts them.
      this.logger.warn(
        `Giving back ${counted(calls.length, 'call')} that had not started failed: ${String(error)}`,
      );
    }
  }

  private async finishRunning(): Promise<void> {
    if (this.executor.running > 0) {
      this.logger.log(
        `Waiting for ${counted(this.executor.running, 'call')} to finish, at most ${this.options.shutdownTimeout} ms.`,
      );
    }
    await withDeadline(this.options.shutdownTimeout, () => this.executor.idle());
    if (this.executor.running === 0) return;
    this.executor.abort(
      new Error(`The app is closing, and shutdownTimeout (${this.options.shutdownTimeout} ms) is over.`),
    );
    await withDeadline(ABORT_GRACE, () => this.executor.idle());
  }

  private async interruptRest(): Promise<void> {
    if (!this.session.isOpen) return;
    try {
      const calls = await this.instances.interruptOwn(
        'The app closed before the call had finished.',
        DEFAULT_BACKOFF,
      );
      if (calls.length === 0) return;
      this.logger.warn(`The app closes. ${this.rescuer.interrupted(this.session.instance.id, calls)}`);
    } catch (error) {
      this.logger.warn(
        `Marking what still runs as interrupted failed; another instance will do it: ${String(error)}`,
      );
    }
  }
}

/**
 * Waits for `work`, but not longer than that. Keeps the process alive meanwhile: with the database away nothing else
 * may, and `app.close()` would end in the middle.
 */
async function withDeadline(
  milliseconds: number,
  work: (signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const over = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const deadline = new Promise<void>((resolve) => (timer = setTimeout(resolve, milliseconds)));
  try {
    await Promise.race([work(over.signal), deadline]);
  } finally {
    clearTimeout(timer);
    over.abort();
  }
}
