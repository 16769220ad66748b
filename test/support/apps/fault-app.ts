/**
 * An app whose handlers do what a call's data says, and write every start into the ledger. From the environment:
 * FUTURE_CALL_OPTIONS and TYPEORM_OPTIONS (JSON), and HANDLERS (JSON: name → options).
 */
import './fault-surroundings.js';
import 'reflect-metadata';
import { randomUUID } from 'node:crypto';
import * as fs from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Injectable, Module } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import type pg from 'pg';
import { DataSource } from 'typeorm';
import {
  FutureCall,
  FutureCallModule,
  FutureCallService,
  type FutureCallContext,
  type FutureCallHandler,
  type FutureCallHandlerOptions,
} from '../../../lib/index.js';
import { boot, onMessage, tell } from '../app-process.js';

/** What a handler does with a call, in this order. */
export interface Act {
  /** Ends the process at once, before anything is said. */
  die?: boolean;
  /** Blocks the event loop until somebody writes to this FIFO. */
  block?: string;
  /** Runs a statement on the app's pool. */
  sql?: string;
  /** Waits until the test says `release`. */
  hold?: boolean;
  /** Throws, in the attempts up to this one. */
  fail?: number;
}

const environment = <T>(name: string, otherwise: T) =>
  (JSON.parse(process.env[name] ?? 'null') as T | null) ?? otherwise;

@Injectable()
class Acts {
  private readonly released = new Promise<void>((resolve) => onMessage('release', () => resolve()));

  constructor(private readonly dataSource: DataSource) {}

  async do(act: Act | null, call: FutureCallContext): Promise<void> {
    const { id, name, attempt } = call;
    if (act?.die === true) process.kill(process.pid, 'SIGKILL');
    tell('started', { id, name, attempt });
    call.signal.addEventListener('abort', () => tell('aborted', { id, attempt }));
    await this.write(call);
    if (act?.block !== undefined) {
      tell('blocking', { id });
      fs.readFileSync(act.block);
    }
    if (act?.sql !== undefined) await this.dataSource.query(act.sql);
    if (act?.hold === true) {
      tell('holding', { id, attempt });
      await this.released;
    }
    tell('ended', { id, attempt });
    if (attempt <= (act?.fail ?? 0)) throw new Error(`Attempt ${attempt} of call ${id} fails on purpose.`);
  }

  /** A start is written once, however often the connection breaks. */
  private async write({ id, name, attempt }: FutureCallContext): Promise<void> {
    const start = randomUUID();
    for (;;) {
      try {
        await this.dataSource.query(
          `insert into public.started (start, call_id, name, attempt, pid) values ($1, $2, $3, $4, $5) on conflict do nothing`,
          [start, id, name, attempt, process.pid],
        );
        return;
      } catch {
        await sleep(50);
      }
    }
  }
}

function handlerClass([name, options]: [string, FutureCallHandlerOptions]) {
  @FutureCall(name, options)
  class Handler implements FutureCallHandler {
    constructor(private readonly acts: Acts) {}

    invoke(act: unknown, call: FutureCallContext) {
      return this.acts.do(act as Act | null, call);
    }
  }
  return Handler;
}

@Module({
  imports: [
    TypeOrmModule.forRoot({
      type: 'postgres',
      url: process.env.DATABASE_URL,
      autoLoadEntities: true,
      applicationName: 'fault app',
      retryAttempts: 0,
      ...environment('TYPEORM_OPTIONS', {}),
    }),
    FutureCallModule.forRoot(environment('FUTURE_CALL_OPTIONS', {})),
  ],
  providers: [
    Acts,
    ...Object.entries(environment<Record<string, FutureCallHandlerOptions>>('HANDLERS', {})).map(
      handlerClass,
    ),
  ],
})
class FaultApp {}

process.on('unhandledRejection', (error) => {
  tell('unhandled', { error: String(error) });
  process.exit(70);
});

const app = await boot(FaultApp);
// TypeORM listens for a connection's errors a moment after its pool has handed it out. A backend that is ended in that
// moment ends the process: that is no fault of ours, and not what is tested.
const { master } = app.get(DataSource).driver as unknown as { master: pg.Pool };
master.on('connect', (client) => client.on('error', () => {}));
const service = app.get(FutureCallService);
service.events.subscribe(({ type, ...event }) => {
  if (type === 'connected' || type === 'disconnected' || type === 'rescued') tell(type, { ...event });
});
// Told when the drain has begun.
onMessage('close', () => tell('closing'));
onMessage('schedule', async ({ handler, act, delay, at }) => {
  const { id } = await (at === undefined
    ? service.callWithDelay(String(handler), act, Number(delay ?? 0))
    : service.callAtTime(String(handler), act, new Date(at as string)));
  tell('scheduled', { id });
});
