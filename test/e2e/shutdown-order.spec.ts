import { Injectable, Module, type OnApplicationBootstrap, type OnModuleDestroy } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { TypeOrmModule } from '@nestjs/typeorm';
import { DataSource } from 'typeorm';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { FutureCall, FutureCallModule } from '../../lib/index.js';
import { createTables } from '../support/app.js';
import { createDatabase, type TestDatabase } from '../support/database.js';
import { LogLines } from '../support/log-lines.js';
import { until } from '../support/until.js';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(() => database.drop());

const events: string[] = [];
let release: () => void;
let released: Promise<void>;

/** What handlers use, and what closes itself as early as Nest lets it. */
class Closing implements OnModuleDestroy, OnApplicationBootstrap {
  readonly name: string = '';
  onApplicationBootstrap() {
    events.push(`${this.name} has booted`);
  }
  onModuleDestroy() {
    events.push(`${this.name} is closed`);
  }
}

@Injectable()
class OfFeature extends Closing {
  override readonly name = 'feature';
}

@Injectable()
class OfRoot extends Closing {
  override readonly name = 'root';
}

@FutureCall('slow')
class Slow {
  constructor(
    readonly feature: OfFeature,
    readonly dataSource: DataSource,
  ) {}

  async invoke() {
    events.push('handler has started');
    await released;
    // More statements than a drain has that waits for nobody.
    for (let i = 0; i < 50; i++) await this.dataSource.query('select');
    const [row] = await this.dataSource.query<[{ two: number }]>('select 1 + 1 as two');
    events.push(`handler has ended, 1 + 1 is ${row.two}`);
  }
}

@Module({ providers: [OfFeature, Slow], exports: [OfFeature] })
class FeatureModule {}

const typeorm = () => TypeOrmModule.forRoot({ type: 'postgres', url: database.url, autoLoadEntities: true });
const calls = () => FutureCallModule.forRoot();

it.each([
  ['first', () => [calls(), FeatureModule, typeorm()]],
  ['last', () => [typeorm(), FeatureModule, calls()]],
])(
  'an app runs calls when all of it has booted, and drains before any of it is closed: FutureCallModule imported %s',
  async (_order, imports) => {
    events.length = 0;
    released = new Promise((resolve) => (release = resolve));
    @Module({ imports: imports(), providers: [OfRoot] })
    class AppModule {}

    // Due before the app boots: it must wait until all of it has.
    await createTables(database);
    await database.query(`insert into future_call (name, due_at) values ('slow', now())`);
    const logger = new LogLines();
    const app = await NestFactory.createApplicationContext(AppModule, { logger });
    await until(async () => events.includes('handler has started'), 'the handler has started');
    const closed = app.close();
    const isWaiting = async () =>
      logger.lines.some((line) => line.startsWith('Waiting for 1 call to finish'));
    await until(isWaiting, 'the drain waits for the handler');
    release();
    await closed;
    expect(events).toEqual([
      'feature has booted',
      'root has booted',
      'handler has started',
      'handler has ended, 1 + 1 is 2',
      'root is closed',
      'feature is closed',
    ]);
    expect(app.get(DataSource).isInitialized).toBe(false);
  },
);
