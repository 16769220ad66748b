import { Inject, Injectable } from '@nestjs/common';
import { FUTURE_CALL_OPTIONS, keptForATime, type ResolvedOptions } from '../module/future-call.options.js';
import { FutureCallClock, perTime } from './future-call.clock.js';
import { dueStatements } from './future-call.due-sql.js';
import { FutureCallPool } from './future-call.pool.js';
import { rowSecurityHolds } from './future-call.row-security.js';
import { FutureCallSchema } from './future-call.schema.js';

/** What there is to do. */
export interface DueLook {
  /** When the first pending call of the handlers is due, in milliseconds since 1970, or null when there is none. */
  readonly nextDueAt: number | null;
  readonly isDue: boolean;
  /** Whether there is an instance whose liveness lock is missing. */
  readonly mayHaveToRescue: boolean;
  /** Whether there are outcomes that were kept long enough. */
  readonly mayPrune: boolean;
}

/** What a process asks that runs calls only now and then, on a connection of the app's pool. */
@Injectable()
export class FutureCallDueStore {
  private built?: () => ReturnType<typeof dueStatements>;

  constructor(
    @Inject(FUTURE_CALL_OPTIONS) private readonly options: ResolvedOptions,
    private readonly pool: FutureCallPool,
    private readonly schema: FutureCallSchema,
    private readonly clock: FutureCallClock,
  ) {}

  /** Throws `FutureCallSchemaError` when row-level security has come in the way since the boot. */
  async look(names: readonly string[]): Promise<DueLook> {
    const { lookForWork } = await this.statements();
    const [row] = (await this.pool.run(lookForWork, [...keptForATime(this.options), names])) as [
      Omit<DueLook, 'nextDueAt'> & { nextDueAt: string | null; blindRole: string | null },
    ];
    const { blindRole, nextDueAt, ...look } = row;
    if (blindRole !== null) throw rowSecurityHolds(blindRole, [(await this.schema.ready()).pending]);
    return { ...look, nextDueAt: nextDueAt === null ? null : Number(nextDueAt) };
  }

  /** Deletes a batch of old outcomes. */
  async prune(): Promise<void> {
    const { pruneBatch } = await this.statements();
    await this.pool.run(pruneBatch, keptForATime(this.options));
  }

  private async statements() {
    const tables = await this.schema.ready();
    return (this.built ??= perTime(this.clock, (time) => dueStatements(tables, time)))();
  }
}
