import { Injectable } from '@nestjs/common';
import type { EntityManager } from 'typeorm';
import { FutureCallEvents } from '../contract/future-call.events.js';
import type { ScheduledFutureCall } from '../contract/future-call.types.js';
import { FutureCallWake } from '../contract/future-call.wake.js';
import { FutureCallServiceStore, type NewCall } from '../store/future-call.service-store.js';
import { FutureCallManagers } from './future-call.managers.js';

/** Inserts calls, and sees to it that whoever can run them hears of them. */
@Injectable()
export class FutureCallScheduler {
  constructor(
    private readonly store: FutureCallServiceStore,
    private readonly managers: FutureCallManagers,
    private readonly wake: FutureCallWake,
    private readonly events: FutureCallEvents,
  ) {}

  async schedule(call: NewCall, given: EntityManager | undefined): Promise<ScheduledFutureCall> {
    const manager = this.managers.own(given);
    const mayCommitLate = this.managers.mayCommitLate(manager);
    const slot = !mayCommitLate && isDueNow(call.due) ? this.wake.reserve(call.name) : undefined;
    const notify = mayCommitLate ? 'always' : slot === undefined ? 'soon' : 'never';
    const { id, dueAt } = await this.store.schedule(call, notify, manager).catch((error: unknown) => {
      slot?.giveBack();
      throw error;
    });
    // If that fails, the call is there all the same, and is found by the next poll.
    if (slot?.scheduled(dueAt) === false) await this.store.notify(call.name, dueAt).catch(() => {});
    return this.accepted(call, id, dueAt);
  }

  /** All of them or none. Answers in their order. */
  async scheduleMany(
    calls: readonly NewCall[],
    given: EntityManager | undefined,
  ): Promise<ScheduledFutureCall[]> {
    if (calls.length === 0) return [];
    const manager = this.managers.own(given);
    const notify = this.managers.mayCommitLate(manager) ? 'always' : 'soon';
    const accepted = await this.store.scheduleMany(calls, notify, manager);
    return accepted.map(({ id, dueAt }, i) => this.accepted(calls[i]!, id, dueAt));
  }

  private accepted({ name, identifier }: NewCall, id: string, dueAt: number): ScheduledFutureCall {
    const scheduled = { id, name, identifier, dueAt: new Date(dueAt) };
    if (this.events.observed) this.events.emit({ type: 'scheduled', ...scheduled });
    return scheduled;
  }
}

/** A time is not compared with this process's clock: it may be wrong. */
function isDueNow(due: NewCall['due']): boolean {
  return typeof due !== 'number' && due.months === 0 && due.milliseconds === 0;
}
