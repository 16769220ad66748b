import { Inject, Injectable } from '@nestjs/common';
import type { EntityManager } from 'typeorm';
import type { ParsedDelay } from '../common/duration.js';
import { FUTURE_CALL_OPTIONS, type ResolvedOptions } from '../module/future-call.options.js';
import { FutureCallClock, perTime } from './future-call.clock.js';
import { FutureCallPool } from './future-call.pool.js';
import { rowSecurityHolds } from './future-call.row-security.js';
import { FutureCallSchema } from './future-call.schema.js';
import { serviceStatements, type NotifyMode } from './future-call.service-sql.js';

/** A call to be inserted. */
export interface NewCall {
  readonly name: string;
  readonly identifier: string | null;
  /** JSON. */
  readonly data: string | null;
  /** A delay, counted by the database from when it runs the statement, or a time in milliseconds since 1970. */
  readonly due: ParsedDelay | number;
}

/** A call that was inserted: its id, and when it is due in milliseconds since 1970. */
export interface Accepted {
  readonly id: string;
  readonly dueAt: number;
}

/** How many calls are inserted by one statement, and with how many characters of data, unless one alone has more. */
const LARGEST_BATCH = 5_000;
const MOST_DATA = 16_000_000;

/** What scheduling and cancelling ask of the database, on the caller's connection or one of the app's pool. */
@Injectable()
export class FutureCallServiceStore {
  private built?: () => ReturnType<typeof serviceStatements>;

  constructor(
    @Inject(FUTURE_CALL_OPTIONS) private readonly options: ResolvedOptions,
    private readonly pool: FutureCallPool,
    private readonly schema: FutureCallSchema,
    private readonly clock: FutureCallClock,
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
        ? await this.pool.run(scheduleAt, [...given, call.due], manager)
        : await this.pool.run(scheduleAfter, [...given, ...delayValues(call.due)], manager);
    const [row] = rows as [{ id: string; due: string }];
    return { id: row.id, dueAt: Number(row.due) };
  }

  /** As `schedule`, for many at once: all or none. Answers in their order. */
  async scheduleMany(
    calls: readonly NewCall[],
    notify: NotifyMode,
    manager = this.pool.manager,
  ): Promise<Accepted[]> {
    const batches = inBatches(calls);
    if (batches.length === 1) return this.scheduleBatch(calls, notify, manager);
    // TypeORM makes a savepoint of it inside a transaction.
    return manager.transaction(async (inside) => {
      const accepted: Accepted[] = [];
      for (const batch of batches) accepted.push(...(await this.scheduleBatch(batch, 'never', inside)));
      const earliest = accepted.reduce((least, { dueAt }) => Math.min(least, dueAt), Infinity);
      const name = calls.every((call) => call.name === calls[0]!.name) ? calls[0]!.name : '';
      // 'always': by the time all of this commits, 'soon' would have been judged too early.
      if (notify !== 'never')
        await this.pool.run((await this.statements()).notify, [name, earliest, 'always'], inside);
      return accepted;
    });
  }

  private async scheduleBatch(
    calls: readonly NewCall[],
    notify: NotifyMode,
    manager: EntityManager,
  ): Promise<Accepted[]> {
    const { scheduleMany } = await this.statements();
    const delays = calls.map(({ due }) => (typeof due === 'number' ? [null, null, null] : delayValues(due)));
    const rows = (await this.pool.run(
      scheduleMany,
      [
        calls.map(({ name }) => name),
        calls.map(({ identifier }) => identifier),
        calls.map(({ data }) => data),
        delays.map(([months]) => months),
        delays.map(([, milliseconds]) => milliseconds),
        delays.map(([, , microseconds]) => microseconds),
        calls.map(({ due }) => (typeof due === 'number' ? due : null)),
        notify,
      ],
      manager,
    )) as { id: string | null; due: string }[];
    // The row without an id is the notification's.
    return rows.flatMap(({ id, due }) => (id === null ? [] : { id, dueAt: Number(due) }));
  }

  /** Tells all instances of a call that has been inserted. */
  async notify(name: string, dueAt: number): Promise<void> {
    const { notify } = await this.statements();
    await this.pool.run(notify, [name, dueAt, 'soon']);
  }

  /**
   * Deletes the pending calls of an identifier. Answers with which. Throws `FutureCallSchemaError` when somebody has put
   * row-level security in the way since the boot: nothing found would mean nothing.
   */
  async cancel(identifier: string, manager?: EntityManager): Promise<{ id: string; name: string }[]> {
    const { cancel, cancelAndKeep } = await this.statements();
    const keep = this.options.retention.cancelled > 0;
    const rows = (await this.pool.run(keep ? cancelAndKeep : cancel, [identifier], manager)) as {
      id: string | null;
      name: string;
    }[];
    const blind = rows.find(({ id }) => id === null);
    if (blind !== undefined) throw rowSecurityHolds(blind.name, [(await this.schema.ready()).pending]);
    return rows as { id: string; name: string }[];
  }

  private async statements() {
    const tables = await this.schema.ready();
    return (this.built ??= perTime(this.clock, (time) => serviceStatements(tables, time)))();
  }
}

/** Rounding up to whole milliseconds keeps a call from being early; one without a delay is due at once. */
function delayValues({ months, milliseconds }: ParsedDelay): [number, number, number] {
  return [months, milliseconds, months === 0 && milliseconds === 0 ? 0 : 999];
}

function inBatches(calls: readonly NewCall[]): NewCall[][] {
  const batches: NewCall[][] = [[]];
  let size = 0;
  for (const call of calls) {
    size += call.data?.length ?? 0;
    const batch = batches.at(-1)!;
    if (batch.length > 0 && (batch.length === LARGEST_BATCH || size > MOST_DATA)) {
      batches.push([call]);
      size = call.data?.length ?? 0;
    } else batch.push(call);
  }
  return batches;
}
