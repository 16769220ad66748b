/**
 * The smallest app. `scripts/smoke.mjs` compiles and runs it beside the packed library, as an ES module and as
 * CommonJS: no top-level await here.
 */
import 'reflect-metadata';
import assert from 'node:assert/strict';
import { EventEmitter, once } from 'node:events';
import { Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { TypeOrmModule } from '@nestjs/typeorm';
import {
  FutureCall,
  FutureCallModule,
  FutureCallService,
  type FutureCallContext,
  type FutureCallHandler,
} from 'nestjs-future-call';

interface Greeting {
  name: string;
}

const greetings = new EventEmitter();

@FutureCall('greet')
class Greet implements FutureCallHandler<Greeting> {
  invoke(data: Greeting, call: FutureCallContext) {
    greetings.emit('greeted', data, call);
  }
}

@Module({
  imports: [
    TypeOrmModule.forRoot({ type: 'postgres', url: process.env.DATABASE_URL, autoLoadEntities: true }),
    FutureCallModule.forRoot(),
  ],
  providers: [Greet],
})
class AppModule {}

async function main() {
  const app = await NestFactory.createApplicationContext(AppModule, { logger: ['error', 'warn'] });
  const service = app.get(FutureCallService);

  const greeted = once(greetings, 'greeted');
  const scheduled = await service.callWithDelay(Greet, { name: 'world' }, '20ms', { identifier: 'smoke' });
  const [data, call] = (await greeted) as [Greeting, FutureCallContext];
  assert.deepEqual(data, { name: 'world' });
  assert.equal(call.id, scheduled.id);
  assert.deepEqual(call.dueAt, scheduled.dueAt);

  await service.callWithDelay('greet', { name: 'nobody' }, { days: 1 }, { identifier: 'smoke' });
  assert.equal(await service.cancel('smoke'), 1);

  // The types came along: neither line compiles, and neither would be refused if something in them were `any`.
  void [
    // @ts-expect-error A name is a string.
    () => service.callWithDelay(Greet, { name: 1 }, 0),
    // @ts-expect-error There is no such unit.
    () => service.callWithDelay(Greet, { name: 'world' }, { fortnights: 1 }),
  ];

  await app.close();
  console.log('greeted, cancelled, closed');
}

void main();
