import type { INestApplicationContext, LoggerService, Provider } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { TypeOrmModule, type TypeOrmModuleOptions } from '@nestjs/typeorm';
import { FutureCallModule, type FutureCallModuleOptions } from 'nestjs-future-call';

export interface BootOptions {
  readonly providers?: Provider[];
  readonly options?: FutureCallModuleOptions;
  /** Beside `type`, `url` and `autoLoadEntities`. */
  readonly typeorm?: object;
  readonly logger?: LoggerService;
}

class AppModule {}

/** Boots an app as a user writes it. Whoever boots it closes it. */
export function boot({
  providers = [],
  options,
  typeorm,
  logger,
}: BootOptions): Promise<INestApplicationContext> {
  const url = process.env.DATABASE_URL;
  const connected = { type: 'postgres', url, autoLoadEntities: true, ...typeorm } as TypeOrmModuleOptions;
  const module = {
    module: AppModule,
    imports: [TypeOrmModule.forRoot(connected), FutureCallModule.forRoot(options)],
    providers,
  };
  return NestFactory.createApplicationContext(module, { logger: logger ?? ['error', 'warn'] });
}
