import { AsyncResource } from 'node:async_hooks';
import { Injectable } from '@nestjs/common';

/** A slot that is kept for a call while it is being inserted. It ends with one of these. */
export interface Reservation {
  /** The call was not inserted. */
  giveBack(): void;
  /**
   * The call was inserted: due at that moment, in milliseconds since 1970. False when it will not be claimed here after
   * all, since the poller has stopped meanwhile: others have to be told.
   */
  scheduled(dueAt: number): boolean;
}

/** The poller of this process, as scheduling sees it. */
export interface LocalPoller {
  /** Reserves a slot for a call of that handler that is due now; undefined when none is free. */
  reserve(name: string): Reservation | undefined;
}

/**
 * How scheduling reaches the poller of its own process, if there is one, without knowing the engine: a call that is
 * due now and can be claimed here at once needs no notification, and notifications are the dearest part of a commit.
 */
@Injectable()
export class FutureCallWake implements LocalPoller {
  private poller: LocalPoller | undefined;

  attach(poller: LocalPoller): void {
    // The context of who attaches. Timers that are set and claims that are made from here would inherit the caller's, and
    // with it a transaction that is long over.
    const context = new AsyncResource('FutureCall');
    this.poller = {
      reserve(name) {
        const reservation = poller.reserve(name);
        return (
          reservation && {
            giveBack: () => reservation.giveBack(),
            scheduled: (dueAt) => context.runInAsyncScope(() => reservation.scheduled(dueAt)),
          }
        );
      },
    };
  }

  detach(): void {
    this.poller = undefined;
  }

  reserve(name: string): Reservation | undefined {
    return this.poller?.reserve(name);
  }
}
