/**
 * An app with handlers that leave a mark. FUTURE_CALL_OPTIONS: the module's options as JSON. The table `started` has
 * a row for every start of a handler.
 */
import 'reflect-metadata';
import { Injectable, Module } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import { DataSource } from 'typeorm';
import {
  FutureCall,
  FutureCallControl,
  FutureCallModule,
  FutureCallService,
  type FutureCallContext,
  type FutureCallHandler,
} from '../../../lib/index.js';
import { boot, onMessage, tell } from '../app-process.js';

@Injectable()
class Marks {
  constructor(private readonly dataSource: DataSource) {}

  async started({ id, attempt }: FutureCallContext): Promise<void> {
    await this.dataSource.query('insert into started (call_id, attempt, pid) values ($1, $2, $3)', [
      id,
      attempt,
      process.pid,
    ]);
  }
}

@FutureCall('mark')
class Mark implements FutureCallHandler {
  constructor(private readonly marks: Marks) {}

  async invoke(_data: unknown, call: FutureCallContext) {
    await this.marks.started(call);
  }
}

/** Ends when the test says so. */
@FutureCall('hold')
class Hold implements FutureCallHandler {
  private readonly released: Promise<void>;

  constructor(private readonly marks: Marks) {
    this.released = new Promise((resolve) => onMessage('release', () => resolve()));
  }

  async invoke(_data: unknown, call: FutureCallContext) {
    await this.marks.started(call);
    call.signal.addEventListener('abort', () => tell('aborted', { id: call.id }));
    tell('holding', { id: call.id });
    await this.released;
    tell('released', { id: call.id });
  }
}

/** As `hold`, and may be started twice. */
@FutureCall('hold again', { attempts: 2 })
class HoldAgain extends Hold {}

/** Does what no handler should: its data says what. */
@FutureCall('careless')
class Careless implements FutureCallHandler<string> {
  invoke(what: string) {
    if (what === 'ends the process') process.exit(3);
    if (what === 'throws in a timer') {
      setTimeout(() => {
        throw new Error('in a timer');
      }, 0);
    }
    if (what === 'leaves a rejection behind') {
      onMessage('reject', () => Promise.reject(new Error('left behind')));
      return null;
    }
    // Never settles.
    return new Promise(() => {});
  }
}

@FutureCall('fail')
class Fail implements FutureCallHandler {
  invoke(_data: unknown, call: FutureCallContext) {
    throw new Error(`call ${call.id} fails on purpose`);
  }
}

@Module({
  imports: [
    TypeOrmModule.forRoot({ type: 'postgres', url: process.env.DATABASE_URL, autoLoadEntities: true }),
    FutureCallModule.forRoot(JSON.parse(process.env.FUTURE_CALL_OPTIONS ?? '{}') as object),
  ],
  providers: [Marks, Mark, Hold, HoldAgain, Careless, Fail],
})
class AppModule {}

const app = await boot(AppModule);
const service = app.get(FutureCallService);
onMessage('schedule', async ({ handler, data = null, delay, count = 1 }) => {
  for (let i = 0; i < Number(count); i++)
    await service.callWithDelay(String(handler), data, Number(delay ?? 0));
  tell('scheduled');
});
onMessage('runDue', async () => tell('has run', { ...(await app.get(FutureCallControl).runDue()) }));
// Once: Nest ends the process with the signal that it got, and that one must find no listener.
onMessage('await', ({ signal }) => {
  process.once(signal as NodeJS.Signals, () => tell('signalled'));
  tell('awaiting');
});
