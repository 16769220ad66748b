/** An app that schedules a call as soon as it has booted, its tables in the schema SCHEMA. */
import 'reflect-metadata';
import { Module } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import { FutureCallModule, FutureCallService } from '../../../lib/index.js';
import { boot } from '../app-process.js';

@Module({
  imports: [
    TypeOrmModule.forRoot({
      type: 'postgres',
      url: process.env.DATABASE_URL,
      schema: process.env.SCHEMA,
      autoLoadEntities: true,
    }),
    FutureCallModule.forRoot({ execute: false }),
  ],
})
class SchemaApp {}

const app = await boot(SchemaApp);
await app.get(FutureCallService).callWithDelay('later', process.pid, '1 day');
await app.close();
