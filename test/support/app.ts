import { Module, type INestApplicationContext, type ModuleMetadata, type Provider } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { TypeOrmModule, type TypeOrmModuleOptions } from '@nestjs/typeorm';
import { DataSource } from 'typeorm';
import { onTestFinished } from 'vitest';
import { FutureCallModule, FutureCallService, type FutureCallModuleOptions } from '../../lib/index.js';
import type { TestDatabase } from './database.js';

export interface BootOptions {
  providers?: Provider[];
  imports?: ModuleMetadata['imports'];
  options?: FutureCallModuleOptions;
  /** Beside `type`, `url` and `autoLoadEntities: true`. */
  typeorm?: Partial<TypeOrmModuleOptions>;
  logger?: Parameters<typeof NestFactory.createApplicationContext>[1] extends infer O
    ? O extends { logger?: infer L }
      ? L
      : never
    : never;
}

export interface BootedApp {
  readonly app: INestApplicationContext;
  readonly service: FutureCallService;
  readonly dataSource: DataSource;
  readonly close: () => Promise<void>;
}

/** A Nest app in this process, as a user writes it. It is closed when the test ends, at the latest. */
export async function bootApp(database: TestDatabase, options: BootOptions = {}): Promise<BootedApp> {
  const booted = await boot(database, options);
  onTestFinished(booted.close);
  return booted;
}

/** For a test that begins with empty tables. */
export async function createTables(database: TestDatabase): Promise<void> {
  const booted = await boot(database, { options: { execute: false } });
  await booted.close();
}

/** As `bootApp`, for tests that run concurrently, whose hooks vitest cannot tell apart: whoever boots it closes it. */
export async function boot(database: TestDatabase, options: BootOptions): Promise<BootedApp> {
  const { providers = [], imports = [], options: module, typeorm = {}, logger = false } = options;

  @Module({
    imports: [
      TypeOrmModule.forRoot({
        type: 'postgres',
        url: database.url,
        autoLoadEntities: true,
        retryAttempts: 0,
        ...typeorm,
      } as TypeOrmModuleOptions),
      FutureCallModule.forRoot(module),
      ...imports,
    ],
    providers,
  })
  class AppModule {}

  const app = await NestFactory.createApplicationContext(AppModule, { logger, abortOnError: false });
  let closed: Promise<void> | undefined;
  const close = () => (closed ??= app.close());
  return { app, service: app.get(FutureCallService), dataSource: app.get(DataSource), close };
}
