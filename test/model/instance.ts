import { EventEmitter, once } from 'node:events';
import { Test, type TestingModule } from '@nestjs/testing';
import { getDataSourceToken, TypeOrmModule } from '@nestjs/typeorm';
import type { DataSource } from 'typeorm';
import {
  FutureCall,
  FutureCallModule,
  FutureCallService,
  type FutureCallContext,
  type FutureCallHandler,
} from '../../lib/index.js';
import type { EngineParts } from '../../lib/engine/future-call.engine-parts.js';
import { DEFAULT_BACKOFF } from '../../lib/engine/future-call.retry-policy.js';
import { FutureCallSession } from '../../lib/store/future-call.session.js';
import type { TestDatabase } from '../support/database.js';
import { engineOf } from '../support/engine.js';
import { until } from '../support/until.js';

/** A handler that waits for the model to say how it ends. */
export interface Start {
  readonly call: FutureCallContext;
  readonly instance: ModelInstance;
  readonly end: (error?: Error) => void;
}

/** The order in which handlers allow attempts: one of them once, the other three times. */
export const ATTEMPTS = { once: 1, thrice: 3 } as const;
export type HandlerName = keyof typeof ATTEMPTS;

const FROM_THE_START = { dueAt: '-infinity', id: '0' };

/**
 * A real instance of the library whose clockwork stands still: it claims, looks and rescues when the model says so.
 * Everything else, from the session's reconnect to the recording of ends, is what runs in an app.
 */
export class ModelInstance {
  /** Handlers that run, oldest first. */
  readonly running: Start[] = [];
  isAlive = true;
  private engine!: EngineParts;

  private constructor(
    private readonly app: TestingModule,
    private readonly database: TestDatabase,
  ) {}

  static async start(database: TestDatabase, onStart: (start: Start) => void): Promise<ModelInstance> {
    const starts = new EventEmitter();

    class Held implements FutureCallHandler {
      invoke(_data: null, call: FutureCallContext): Promise<void> {
        return new Promise((resolve, reject) => {
          starts.emit('start', call, (error?: Error) => (error ? reject(error) : resolve()));
        });
      }
    }
    @FutureCall('once', { attempts: ATTEMPTS.once })
    class Once extends Held {}
    @FutureCall('thrice', { attempts: ATTEMPTS.thrice, backoff: { type: 'fixed', delay: 0 } })
    class Thrice extends Held {}

    const app = await Test.createTestingModule({
      imports: [
        TypeOrmModule.forRoot({ type: 'postgres', url: database.url, autoLoadEntities: true, poolSize: 2 }),
        FutureCallModule.forRoot({
          concurrency: 2,
          pollInterval: '1h',
          rescueAfter: '5m',
          shutdownTimeout: 0,
        }),
      ],
      providers: [Once, Thrice],
    }).compile();
    app.useLogger(false);
    const instance = new ModelInstance(app, database);
    starts.on('start', (call: FutureCallContext, end: (error?: Error) => void) => {
      const start = { call, instance, end };
      instance.running.push(start);
      onStart(start);
    });
    await app.init();
    // The model claims; the looks come every 2.5 minutes, so none comes.
    instance.engine = engineOf(app);
    await instance.engine.poller.stop();
    return instance;
  }

  get service(): FutureCallService {
    return this.app.get(FutureCallService);
  }

  get dataSource(): DataSource {
    return this.app.get<DataSource>(getDataSourceToken());
  }

  get id(): number {
    return this.session.instance.id;
  }

  /** Claims what is due. `isLost`: the answer never arrives, as when the connection breaks in that moment. */
  async claim(limit: number, { isLost = false } = {}): Promise<void> {
    const { calls } = await this.engine.claims.claim(
      Object.keys(ATTEMPTS).map((name) => ({
        name,
        free: limit,
        since: FROM_THE_START,
        nextFrom: 0,
        tellsLocked: true,
      })),
      limit,
    );
    if (!isLost) this.engine.executor.accept(calls);
    else await this.reconnect();
  }

  /** Ends the handler that runs for the longest time, and waits until that is recorded. */
  async end(error?: Error): Promise<Start | undefined> {
    const start = this.running.shift();
    if (start === undefined) return undefined;
    start.end(error);
    await this.recorded();
    return start;
  }

  /** Its connection is cut by the server; it comes back as the same instance, or as a new one if it was rescued. */
  async reconnect(): Promise<void> {
    const { backendPid } = this.session;
    const connected = this.nextConnected();
    await this.database.query('select pg_terminate_backend($1)', [backendPid]);
    await connected;
    await this.recorded();
  }

  /** Is cut off, rescued by another one, and then comes back. */
  async isTakenForDeadBy(other: ModelInstance): Promise<void> {
    const { backendPid } = this.session;
    const { id, lockClass } = this.session.instance;
    const connected = this.nextConnected();
    // The rescuer is first: its session waits for the lock inside the server, and a rescue may take it once more.
    const locked = other.session.query({ text: 'select pg_advisory_lock($1, $2)' }, [lockClass, id]);
    await until(async () => (await this.locks(id)).includes(false), `somebody waits for the lock of ${id}`);
    await this.database.query('select pg_terminate_backend($1)', [backendPid]);
    await locked;
    await other.rescue(id);
    await other.session.query({ text: 'select pg_advisory_unlock($1, $2)' }, [lockClass, id]);
    await connected;
    await this.recorded();
  }

  /** SIGKILL: the session is gone, nothing is said, nothing that its handlers do counts any more. */
  async crash(): Promise<void> {
    const { session } = this;
    this.isAlive = false;
    const { stopped, connection } = session as unknown as {
      stopped: AbortController;
      connection?: { destroy(): void };
    };
    stopped.abort();
    connection?.destroy();
    await this.lockIsFree(this.id);
  }

  async rescue(instanceId: number): Promise<boolean> {
    const store = this.engine.instances;
    return (await store.rescue(instanceId, DEFAULT_BACKOFF)) !== undefined;
  }

  /** `app.close()`: what runs is aborted at once (`shutdownTimeout: 0`), and rejects as handlers do then. */
  async drain(): Promise<void> {
    this.isAlive = false;
    for (const { call, end } of this.running) {
      call.signal.addEventListener('abort', () => end(new Error('aborted')));
    }
    await this.app.close();
  }

  /** For one that has crashed: closes the pool, which a crash would have closed too. */
  async dispose(): Promise<void> {
    if (this.dataSource.isInitialized) await this.dataSource.destroy();
    await this.engine.rescuer.stop();
  }

  private get session(): FutureCallSession {
    return this.engine.session;
  }

  private recorded(): Promise<void> {
    return this.engine.completer.settled(new AbortController().signal);
  }

  private async nextConnected(): Promise<void> {
    const connections = new EventEmitter();
    const subscription = this.service.events.subscribe(
      ({ type }) => type === 'connected' && connections.emit(type),
    );
    await once(connections, 'connected');
    subscription.unsubscribe();
  }

  private lockIsFree(instanceId: number): Promise<boolean> {
    return until(
      async () => (await this.locks(instanceId)).length === 0,
      `the lock of instance ${instanceId} is free`,
    );
  }

  /** Whoever has the liveness lock of an instance, or waits for it: whether it is granted. */
  private async locks(instanceId: number): Promise<boolean[]> {
    const rows = await this.database.query<{ granted: boolean }>(
      `select granted from pg_locks where locktype = 'advisory' and objsubid = 2 and objid = $1
         and database = (select oid from pg_database where datname = current_database())`,
      [instanceId],
    );
    return rows.map(({ granted }) => granted);
  }
}
