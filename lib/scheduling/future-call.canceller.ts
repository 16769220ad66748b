import { Injectable } from '@nestjs/common';
import type { EntityManager } from 'typeorm';
import { FutureCallEvents } from '../contract/future-call.events.js';
import { FutureCallServiceStore } from '../store/future-call.service-store.js';
import { FutureCallManagers } from './future-call.managers.js';

/** Cancels pending calls. */
@Injectable()
export class FutureCallCanceller {
  constructor(
    private readonly store: FutureCallServiceStore,
    private readonly managers: FutureCallManagers,
    private readonly events: FutureCallEvents,
  ) {}

  /** Answers with how many there were. */
  async cancel(identifier: string, manager: EntityManager | undefined): Promise<number> {
    const cancelled = await this.store.cancel(identifier, this.managers.own(manager));
    if (this.events.observed) {
      for (const { id, name } of cancelled) this.events.emit({ type: 'cancelled', id, name, identifier });
    }
    return cancelled.length;
  }
}
