import { Module, type DynamicModule, type Provider } from '@nestjs/common';
import { DiscoveryModule, ModulesContainer } from '@nestjs/core';
import { getDataSourceToken, TypeOrmModule } from '@nestjs/typeorm';
import type { DataSource } from 'typeorm';
import { show } from './common/show.js';
import { FutureCallExplorer } from './handlers/future-call.explorer.js';
import { FutureCallRegistry } from './handlers/future-call.registry.js';
import { futureCallEntities } from './tables/future-call.entity.js';
import { FutureCallOptionsError } from './contract/future-call.errors.js';
import { FutureCallControl } from './control/future-call.control.js';
import { FutureCallEvents } from './contract/future-call.events.js';
import {
  ConfigurableModuleClass,
  MODULE_OPTIONS_TOKEN,
  type FutureCallModuleAsyncOptions,
  type FutureCallModuleExtras,
} from './module/future-call.module-definition.js';
import { refuseUnknown, requireObject } from './module/future-call.option-readers.js';
import {
  FUTURE_CALL_DATA_SOURCE,
  FUTURE_CALL_OPTIONS,
  resolveOptions,
  type FutureCallModuleOptions,
  type FutureCallOptionsFactory,
} from './module/future-call.options.js';
import { FutureCallCanceller } from './scheduling/future-call.canceller.js';
import { FutureCallManagers } from './scheduling/future-call.managers.js';
import { FutureCallReader } from './scheduling/future-call.reader.js';
import { FutureCallScheduler } from './scheduling/future-call.scheduler.js';
import { FutureCallService } from './scheduling/future-call.service.js';
import { FutureCallWake } from './contract/future-call.wake.js';
import { FutureCallRunner } from './engine/future-call.runner.js';
import { FutureCallClock } from './store/future-call.clock.js';
import { FutureCallSchema } from './store/future-call.schema.js';
import { FutureCallDueStore } from './store/future-call.due-store.js';
import { FutureCallPool } from './store/future-call.pool.js';
import { FutureCallServiceStore } from './store/future-call.service-store.js';

/** What every module of the app can use: the service, and what it stands on. Global, so Nest destroys it last. */
@Module({
  imports: [DiscoveryModule],
  providers: [
    { provide: FUTURE_CALL_OPTIONS, inject: [MODULE_OPTIONS_TOKEN], useFactory: resolveOptions },
    FutureCallExplorer,
    FutureCallRegistry,
    FutureCallClock,
    FutureCallSchema,
    FutureCallPool,
    FutureCallServiceStore,
    FutureCallDueStore,
    FutureCallManagers,
    FutureCallReader,
    FutureCallScheduler,
    FutureCallCanceller,
    FutureCallService,
    FutureCallWake,
    FutureCallEvents,
  ],
  exports: [
    FUTURE_CALL_OPTIONS,
    FUTURE_CALL_DATA_SOURCE,
    FutureCallRegistry,
    FutureCallClock,
    FutureCallSchema,
    FutureCallDueStore,
    FutureCallService,
    FutureCallWake,
    FutureCallEvents,
  ],
})
class FutureCallCoreModule extends ConfigurableModuleClass {}

const ASYNC_OPTIONS: readonly (keyof FutureCallModuleAsyncOptions)[] = [
  'imports',
  'inject',
  'useFactory',
  'useClass',
  'useExisting',
  'provideInjectionTokensFrom',
  'dataSource',
];

/**
 * What runs the calls. Not global itself, so that it drains while the providers of handlers are still alive.
 */
@Module({ providers: [FutureCallRunner], exports: [FutureCallRunner] })
class FutureCallRunnerModule {
  constructor(modules: ModulesContainer) {
    const own = [...modules.values()].filter(({ metatype }) => metatype === FutureCallRunnerModule);
    if (own.length > 1) {
      throw new FutureCallOptionsError(
        `FutureCallModule is imported ${own.length} times, and an app can have one. Call forRoot() in the root module only: ` +
          `FutureCallService is global and needs no import.`,
      );
    }
    // Nest's hooks run from the largest distance to the smallest at boot, and back when the app closes. The root module
    // has 1. So we begin when the whole app has booted, and drain before anything that a handler uses is destroyed:
    // the providers of the root module, and of modules that it imports after this one, too.
    for (const module of own) module.distance = 0;
  }
}

/** What operates the calls, for every module of the app. */
@Module({ providers: [FutureCallControl], exports: [FutureCallControl] })
class FutureCallControlModule {}

/** What an app injects. */
const FOR_EVERYBODY = [FutureCallService, FutureCallControl];

/**
 * Import it once, in the root module: `FutureCallModule.forRoot()` or `forRootAsync()`. It runs the calls; what
 * schedules them is global.
 */
@Module({
  // Only for who imports the class as it is: before Nest says that the service is missing somewhere, this says why.
  providers: FOR_EVERYBODY.map((provide) => ({ provide, useFactory: refuseBareModule })),
  exports: FOR_EVERYBODY,
})
export class FutureCallModule {
  /** @throws FutureCallOptionsError at boot, for a wrong option. */
  static forRoot(options: FutureCallModuleOptions & FutureCallModuleExtras = {}): DynamicModule {
    requireObject('FutureCallModule.forRoot()', options);
    const { dataSource, ...rest } = options;
    return withCore(ConfigurableModuleClass.forRoot.call(FutureCallCoreModule, rest), dataSource);
  }

  /** As `forRoot`, with the options from a factory. `dataSource` stands beside it. */
  static forRootAsync(options: FutureCallModuleAsyncOptions): DynamicModule {
    requireObject('FutureCallModule.forRootAsync()', options);
    refuseUnknown('FutureCallModule.forRootAsync()', options, ASYNC_OPTIONS);
    const { dataSource, ...rest } = options;
    if (!rest.useFactory && !rest.useClass && !rest.useExisting) {
      throw new FutureCallOptionsError(
        `FutureCallModule.forRootAsync() needs useFactory, useClass or useExisting. For options that are known already use forRoot().`,
      );
    }
    if (rest.useFactory !== undefined && typeof rest.useFactory !== 'function') {
      throw new FutureCallOptionsError(
        `FutureCallModule.forRootAsync()'s useFactory must be a function, but it is ${show(rest.useFactory)}.`,
      );
    }
    const core = ConfigurableModuleClass.forRootAsync.call(FutureCallCoreModule, rest);
    return withCore(rest.useFactory ? core : withCheckedFactory(core), dataSource);
  }
}

/** Nest would call the method of the options' class without a look whether it has it. */
function withCheckedFactory(core: DynamicModule): DynamicModule {
  const providers = core.providers!.map((provider) =>
    'provide' in provider && provider.provide === MODULE_OPTIONS_TOKEN
      ? ({ ...provider, useFactory: createOptions } as Provider)
      : provider,
  );
  return { ...core, providers };
}

function createOptions(factory: Partial<FutureCallOptionsFactory>) {
  if (typeof factory?.createFutureCallOptions === 'function') return factory.createFutureCallOptions();
  throw new FutureCallOptionsError(
    `${factory?.constructor?.name ?? show(factory)} creates no options for FutureCallModule: it has no method createFutureCallOptions(). ` +
      `Add one: "implements FutureCallOptionsFactory" helps.`,
  );
}

function withCore(core: DynamicModule, dataSource: FutureCallModuleExtras['dataSource']): DynamicModule {
  if (
    dataSource === null ||
    dataSource === '' ||
    !['string', 'object', 'undefined'].includes(typeof dataSource)
  ) {
    throw new FutureCallOptionsError(
      `FutureCallModule's dataSource must be the name of a TypeORM data source, but it is ${show(dataSource)}.`,
    );
  }
  // Registers the entities for autoLoadEntities. Its repositories are not imported: nobody needs them, and without a
  // data source they would fail before we can say what is missing.
  TypeOrmModule.forFeature([...futureCallEntities], dataSource);
  const token = getDataSourceToken(dataSource);
  const providers: Provider[] = [
    ...(core.providers ?? []),
    {
      provide: FUTURE_CALL_DATA_SOURCE,
      inject: [{ token, optional: true }],
      useFactory: (found: DataSource | undefined) => found ?? refuseMissing(token),
    },
  ];
  const runner = { module: FutureCallRunnerModule, imports: [{ ...core, global: true, providers }] };
  return { module: FutureCallControlModule, global: true, imports: [runner] };
}

function refuseBareModule(): never {
  throw new FutureCallOptionsError(
    `FutureCallModule is imported as it is. Import FutureCallModule.forRoot(), once, in the root module; ` +
      `FutureCallService is global, and other modules need no import.`,
  );
}

function refuseMissing(token: ReturnType<typeof getDataSourceToken>): never {
  const name = typeof token === 'string' ? token.replace(/DataSource$/, '') : undefined;
  throw new FutureCallOptionsError(
    name === undefined
      ? `FutureCallModule finds no data source. Import TypeOrmModule.forRoot() in the root module; ` +
          `or, if yours has a name, say so: FutureCallModule.forRoot({ dataSource: 'name' }).`
      : `FutureCallModule finds no data source "${name}". Give yours that name: TypeOrmModule.forRoot({ name: '${name}', … }).`,
  );
}
