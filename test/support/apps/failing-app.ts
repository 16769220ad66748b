/**
 * An app whose boot fails, as FAILURE says, and that is closed then: whether it ends by itself is what the test looks
 * at. Tells `failed` with the error, and `closed`.
 */
import 'reflect-metadata';
import { Injectable, Module, type OnApplicationBootstrap, type Provider } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { TypeOrmModule } from '@nestjs/typeorm';
import { FutureCall, FutureCallModule, type FutureCallModuleOptions } from '../../../lib/index.js';
import { tell } from '../app-process.js';

@FutureCall('same name')
class First {
  invoke() {}
}

@FutureCall('same name')
class Second {
  invoke() {}
}

/** Fails before our instance starts: that comes last. */
@Injectable()
class LateFailure implements OnApplicationBootstrap {
  onApplicationBootstrap() {
    throw new Error('the app itself');
  }
}

const FAILURES: Record<string, { providers?: Provider[]; options?: FutureCallModuleOptions }> = {
  handlers: { providers: [First, Second] },
  // Nobody listens on port 1.
  session: { options: { sessionUrl: 'postgres://127.0.0.1:1/nowhere' } },
  tables: { options: { migrate: false } },
  app: { providers: [LateFailure] },
};

const { providers = [], options = {} } = FAILURES[process.env.FAILURE!]!;

@Module({
  imports: [
    TypeOrmModule.forRoot({ type: 'postgres', url: process.env.DATABASE_URL, autoLoadEntities: true }),
    FutureCallModule.forRoot(options),
  ],
  providers,
})
class AppModule {}

const app = await NestFactory.create(AppModule, { logger: false, abortOnError: false });
try {
  await app.init();
} catch (error) {
  const { name, message } = error as Error;
  tell('failed', { name, message });
}
await app.close();
tell('closed');
// Only the channel to the test is left.
process.channel?.unref();
