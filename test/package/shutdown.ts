import assert from 'node:assert/strict';
import { EventEmitter, once } from 'node:events';
import { ConsoleLogger, Injectable, type OnModuleDestroy } from '@nestjs/common';
import { FutureCall, FutureCallService, type FutureCallEvent } from 'nestjs-future-call';
import { DataSource } from 'typeorm';
import { boot } from './boot.js';

/** Emits `draining` when the library waits for what runs. */
const log = new EventEmitter();

class Logger extends ConsoleLogger {
  override log(message: unknown) {
    if (String(message).startsWith('Waiting for 1 call')) log.emit('draining');
  }
}

/** A provider of the root module: Nest by itself would close it before the calls have drained. */
@Injectable()
class Mailer implements OnModuleDestroy {
  isOpen = true;

  onModuleDestroy() {
    this.isOpen = false;
  }
}

@FutureCall('last')
class Last {
  constructor(
    private readonly mailer: Mailer,
    private readonly dataSource: DataSource,
  ) {}

  async invoke() {
    const draining = once(log, 'draining');
    process.kill(process.pid, 'SIGTERM');
    await draining;
    await this.dataSource.query('select');
    assert(this.mailer.isOpen, 'The mailer was closed while the handler ran.');
  }
}

/** Does not come back: the process ends with the signal that it sends itself. */
export async function endBySignal(): Promise<void> {
  const app = await boot({ providers: [Mailer, Last], logger: new Logger() });
  app.enableShutdownHooks();
  const service = app.get(FutureCallService);
  service.events.subscribe((event: FutureCallEvent) => {
    if (event.type === 'completed') console.log('drained');
  });
  await service.callWithDelay(Last, null, 0);
}
