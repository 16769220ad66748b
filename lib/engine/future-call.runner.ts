import { AsyncResource } from 'node:async_hooks';
import { onOneLine } from '../common/text.js';
import {
  Inject,
  Injectable,
  Logger,
  type OnApplicationBootstrap,
  type OnModuleDestroy,
} from '@nestjs/common';
import type { DataSource } from 'typeorm';
import type { RunDueResult } from '../contract/future-call.control-types.js';
import { FutureCallOptionsError, FutureCallSessionError } from '../contract/future-call.errors.js';
import { FutureCallEvents } from '../contract/future-call.events.js';
import { FutureCallWake } from '../contract/future-call.wake.js';
import { FutureCallRegistry } from '../handlers/future-call.registry.js';
import {
  FUTURE_CALL_DATA_SOURCE,
  FUTURE_CALL_OPTIONS,
  type ResolvedOptions,
} from '../module/future-call.options.js';
import { FutureCallClock } from '../store/future-call.clock.js';
import { FutureCallDueStore } from '../store/future-call.due-store.js';
import { FutureCallSchema } from '../store/future-call.schema.js';
import { FutureCallDueRun } from './future-call.due-run.js';
import type { EngineSurroundings } from './future-call.engine-parts.js';
import { FutureCallEngine } from './future-call.engine.js';
import { FutureCallHandlerCheck } from './future-call.handler-check.js';

/** What `runDue` is to run. */
export interface DueRunRequest {
  /** Undefined: all handlers of this process. */
  readonly names: readonly string[] | undefined;
  readonly limit: number;
  /** Milliseconds. */
  readonly duration: number;
}

/**
 * Starts engines and drains them: when the app has booted and when it closes, and whenever `FutureCallControl` asks for
 * it. The only place that knows Nest's lifecycle. Its module must not be global: Nest destroys global modules last, after
 * what handlers depend on.
 */
@Injectable()
export class FutureCallRunner implements OnApplicationBootstrap, OnModuleDestroy {
  private readonly logger = new Logger('FutureCall');
  /** Whoever asks may be in a transaction, which an async context carries along; timers and handlers must not inherit it. */
  private readonly context = new AsyncResource('FutureCall');
  private readonly around: EngineSurroundings;
  private readonly handlerCheck = new FutureCallHandlerCheck();
  private readonly dueRuns = new Map<FutureCallDueRun, Promise<RunDueResult>>();
  private started: FutureCallEngine | undefined;
  private lastTurn: Promise<unknown> = Promise.resolve();
  private hasBooted = false;
  private isClosing = false;

  constructor(
    @Inject(FUTURE_CALL_DATA_SOURCE) dataSource: DataSource,
    @Inject(FUTURE_CALL_OPTIONS) private readonly options: ResolvedOptions,
    private readonly registry: FutureCallRegistry,
    private readonly schema: FutureCallSchema,
    clock: FutureCallClock,
    private readonly dueStore: FutureCallDueStore,
    private readonly wake: FutureCallWake,
    private readonly events: FutureCallEvents,
  ) {
    this.around = { dataSource, options, schema, clock, events };
  }

  /** The one that `start` has started, while it runs. */
  get engine(): FutureCallEngine | undefined {
    return this.started;
  }

  async onApplicationBootstrap(): Promise<void> {
    // Also where nothing runs: a handler that is declared wrongly is found at boot.
    void this.registry.handlers;
    await this.schema.ready();
    this.hasBooted = true;
    if (this.options.execute === true) await this.start();
    else if (this.options.execute === 'manual') {
      this.logger.log(`Ready. This process runs future calls when it is told to (execute: 'manual').`);
    } else {
      this.logger.log('Ready to schedule future calls. This process runs none (execute: false).');
    }
  }

  /** Can be called twice. */
  async onModuleDestroy(): Promise<void> {
    this.isClosing = true;
    await this.stop();
    this.events.complete();
  }

  /** Starts an engine, unless one runs. Throws what connecting throws, or `FutureCallSessionError`. */
  async start(): Promise<void> {
    await this.inTurn(async () => {
      if (this.started !== undefined) return;
      const engine = new FutureCallEngine(this.around, this.registry.handlers, Infinity, (instances) =>
        this.handlerCheck.check(instances),
      );
      await engine.start();
      this.started = engine;
      this.wake.attach(engine.parts.poller);
      const names = [...this.registry.handlers.keys()].map(onOneLine).join(', ');
      this.logger.log(
        `Instance ${engine.parts.session.instance.id} runs future calls, ${this.options.concurrency} at a time: ${names || 'no handlers'}.`,
      );
      await engine.checkHandlers();
    });
  }

  /** Drains whatever runs calls in this process. Does nothing when nothing does. */
  async stop(): Promise<void> {
    const runs = [...this.dueRuns].map(([run, result]) => {
      run.stop();
      return result;
    });
    await Promise.all([this.stopStarted(), Promise.allSettled(runs)]);
  }

  async runDue({ names, limit, duration }: DueRunRequest): Promise<RunDueResult> {
    const { handlers } = this.registry;
    const chosen = names === undefined ? handlers : new Map(names.map((name) => [name, handlers.get(name)!]));
    const engine = () => new FutureCallEngine(this.around, chosen, limit);
    const run = new FutureCallDueRun(this.dueStore, chosen, engine, duration);
    const result = this.context.runInAsyncScope(() => run.run());
    this.dueRuns.set(run, result);
    try {
      return await result;
    } finally {
      this.dueRuns.delete(run);
    }
  }

  private async stopStarted(): Promise<void> {
    await this.inTurn(async () => {
      const engine = this.started;
      if (engine === undefined) return;
      this.wake.detach();
      await engine.drain();
      this.started = undefined;
      this.logger.log(`Instance ${engine.parts.session.instance.id} has stopped.`);
    });
  }

  /** One after the other: a start that comes during a drain waits for its end. */
  private inTurn(work: () => Promise<void>): Promise<void> {
    const turn = this.lastTurn.then(() => this.context.runInAsyncScope(work));
    this.lastTurn = turn.catch(() => {});
    return turn;
  }

  /** Throws `FutureCallOptionsError` with `execute: false`, `FutureCallSessionError` before the boot and at the end. */
  requireMayRun(method: 'start' | 'runDue'): void {
    if (this.options.execute === false) {
      throw new FutureCallOptionsError(
        `FutureCallControl.${method}() runs calls, and this process runs none: its execute is false. ` +
          `Set execute: 'manual' in FutureCallModule.forRoot(), and calls run when ${method}() is called, and only then.`,
      );
    }
    if (!this.hasBooted) {
      // More handlers may be found until then.
      throw new FutureCallSessionError(
        `FutureCallControl.${method}() comes too early: the app has not booted. ` +
          `Call it after app.init() or app.listen(), and not in onModuleInit() or onApplicationBootstrap().`,
      );
    }
    if (this.isClosing) {
      throw new FutureCallSessionError(`FutureCallControl.${method}() comes too late: the app is closing.`);
    }
  }
}
