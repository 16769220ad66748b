import { Inject, Injectable } from '@nestjs/common';
import type { DataSource, EntityManager } from 'typeorm';
import type { ParsedDelay } from '../common/duration.js';
import {
  FUTURE_CALL_DATA_SOURCE,
  FUTURE_CALL_OPTIONS,
  type ResolvedOptions,
} from '../future-call.options.js';
import type { Statement } from './future-call.connection.js';
import { FutureCallSchema } from './future-call.schema.js';
import { serviceStatements, type NotifyMode } from './future-call.sql.js';

/** A call to be inserted. */
export interface NewCall {
  readonly name: string;
  readonly identifier: string | null;
  /** JSON. */
  readonly data: string | null;
  /** A delay, counted by the database from when it runs the statement, or a time in milliseconds since 1970. */
  readonly due: ParsedDelay | number;
}

/** What scheduling and cancelling ask of the database, on the caller's connection or one of the app's pool. */
@Injectable()
export class FutureCallServiceStore {
  constructor(
    @Inject(FUTURE_CALL_DATA_SOURCE) private readonly dataSource: DataSource,
    @Inject(FUTURE_CALL_OPTIONS) private readonly options: ResolvedOptions,
    private readonly schema: FutureCallSchema,
  ) {}

  /** Inserts a call, and notifies if need be. Answers with its id and when it is due, in milliseconds since 1970. */
  async schedule(
    call: NewCall,
    notify: NotifyMode,
    manager?: EntityManager,
  ): Promise<{ id: string; dueAt: number }> {
    const { scheduleAfter, scheduleAt } = await this.statements();
    const given = [call.name, call.identifier, call.data, notify];
    const rows: unknown =
      typeof call.due === 'number'
        ? await this.run(scheduleAt, [...given, call.due], manager)
        : await this.run(scheduleAfter, [...given, ...delayValues(call.due)], manager);
    const [row] = rows as [{ id: string; due: string }];
    return { id: row.id, dueAt: Number(row.due) };
  }

  /** Deletes the pending calls of an identifier. Answers with which. */
  async cancel(identifier: string, manager?: EntityManager): Promise<{ id: string; name: string }[]> {
    const { cancel, cancelAndKeep } = await this.statements();
    const keep = this.options.retention.cancelled > 0;
    const answer = await this.run(keep ? cancelAndKeep : cancel, [identifier], manager);
    // TypeORM answers a DELETE with its rows and their number, and an INSERT with its rows.
    return (keep ? answer : (answer as [unknown])[0]) as { id: string; name: string }[];
  }

  private async statements() {
    return (this.cached ??= serviceStatements(await this.schema.ready()));
  }
  private cached?: ReturnType<typeof serviceStatements>;

  private run(
    { name, text }: Statement,
    values: unknown[],
    manager = this.dataSource.manager,
  ): Promise<unknown> {
    // TypeORM hands the query on to pg as it is. Its loggers print it with String().
    const query = this.options.preparedStatements ? { name, text, toString: () => text } : text;
    return manager.query(query as string, values);
  }
}

/** Rounding up to whole milliseconds keeps a call from being early; one without a delay is due at once. */
function delayValues({ months, milliseconds }: ParsedDelay): [number, number, number] {
  return [months, milliseconds, months === 0 && milliseconds === 0 ? 0 : 999];
}
