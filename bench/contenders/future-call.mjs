import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { Injectable, Module, Scope } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { TypeOrmModule } from '@nestjs/typeorm';

/** @import { Contender, Database } from '../types.js' */

// Built by the suite from the sources as they are.
const { FutureCall, FutureCallModule, FutureCallService } = await import(
  pathToFileURL(path.join(process.env.FUTURE_CALL_LIBRARY ?? '', 'index.js')).href
);

/** @type {Contender} */
export const futureCall = {
  id: 'future-call',
  label: 'nestjs-future-call',
  about: 'this library, in a Nest application context, default options',

  async prepare({ url }) {
    const app = await boot(url, [], { execute: false });
    await app.close();
  },

  async fill({ client }, { handler, count, due }) {
    await client.query(
      `insert into future_call (name, data, due_at)
       select $1, jsonb_build_object('at', extract(epoch from due) * 1000), due
       from (select (${due})::timestamptz(3) as due from generate_series(1, $2::int) i) d`,
      [handler, count],
    );
  },

  unfinished: `exists (select from future_call_running)
    or exists (select from future_call where due_at <= now() limit 1)`,

  async execute({ url, handlers, concurrency, options = {} }) {
    const { limits = {}, scope, module = {} } = options;
    const providers = Object.entries(handlers).map(([name, handle]) =>
      handlerClass(name, handle, { concurrency: limits[name], scope }),
    );
    const app = await boot(url, providers, { ...(concurrency && { concurrency }), ...module });
    return { stop: () => app.close() };
  },

  async connect({ url }) {
    const app = await boot(url, [], { execute: false });
    const service = app.get(FutureCallService);
    return {
      schedule: (handler, data, delay) => service.callWithDelay(handler, data, delay),
      ...('callMany' in service && {
        scheduleMany: (handler, all) => service.callMany(all.map((data) => ({ handler, data, delay: 0 }))),
      }),
      close: () => app.close(),
    };
  },
};

/** A provider as a user writes it; a `scope` makes Nest create one for every call. */
function handlerClass(name, handle, { concurrency, scope }) {
  class BenchmarkHandler {
    async invoke(data) {
      return handle(data);
    }
  }
  if (scope !== undefined) Injectable({ scope: Scope[scope] })(BenchmarkHandler);
  FutureCall(name, concurrency === undefined ? {} : { concurrency })(BenchmarkHandler);
  return BenchmarkHandler;
}

async function boot(url, providers, options) {
  class AppModule {}
  Module({
    imports: [
      TypeOrmModule.forRoot({ type: 'postgres', url, autoLoadEntities: true, poolSize: 16 }),
      FutureCallModule.forRoot(options),
    ],
    providers,
  })(AppModule);
  return NestFactory.createApplicationContext(AppModule, { logger: ['error', 'warn'] });
}
