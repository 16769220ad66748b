import { ConfigurableModuleBuilder, type ConfigurableModuleAsyncOptions } from '@nestjs/common';
import type { DataSource, DataSourceOptions } from 'typeorm';
import type { FutureCallModuleOptions, FutureCallOptionsFactory } from './future-call.options.js';

/** What shapes the module graph, and so has to be known before any factory has run. */
export interface FutureCallModuleExtras {
  /**
   * The TypeORM data source that holds the calls, as `@nestjs/typeorm` names it: for an app with several.
   *
   * @default the default data source
   */
  dataSource?: DataSource | DataSourceOptions | string;
}

/** The argument of `FutureCallModule.forRootAsync()`. */
export type FutureCallModuleAsyncOptions = ConfigurableModuleAsyncOptions<
  FutureCallModuleOptions,
  keyof FutureCallOptionsFactory
> &
  FutureCallModuleExtras;

export const { ConfigurableModuleClass, MODULE_OPTIONS_TOKEN } =
  new ConfigurableModuleBuilder<FutureCallModuleOptions>()
    .setClassMethodName('forRoot')
    .setFactoryMethodName('createFutureCallOptions')
    .build();
