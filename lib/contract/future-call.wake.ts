import { AsyncResource } from 'node:async_hooks';
import { Injectable } from '@nestjs/common';

/** The poller of this process, as scheduling sees it. */
export interface LocalPoller {
  /**
   * Reserves a slot for a call of that handler that is due now; false when none is free. A reservation ends with
   * `scheduled`, or with `giveBack`.
   */
  reserve(name: string): boolean;
  giveBack(name: string): void;
  /** The call was scheduled: due at that moment, in milliseconds since 1970. */
  scheduled(name: string, dueAt: number): void;
}

/**
 * How scheduling reaches the poller of its own process, if there is one, without knowing the runner: a call that is
 * due now and can be claimed here at once needs no notification, and notifications are the dearest part of a commit.
 */
@Injectable()
export class FutureCallWake implements LocalPoller {
  private poller: LocalPoller | undefined;

  attach(poller: LocalPoller): void {
    this.poller = {
      reserve: (name) => poller.reserve(name),
      giveBack: (name) => poller.giveBack(name),
      // In the context of who attaches. Timers that are set and claims that are made from here would inherit the
      // caller's, and with it a transaction that is long over.
      scheduled: AsyncResource.bind((name: string, dueAt: number) => poller.scheduled(name, dueAt)),
    };
  }

  detach(): void {
    this.poller = undefined;
  }

  reserve(name: string): boolean {
    return this.poller?.reserve(name) ?? false;
  }

  giveBack(name: string): void {
    this.poller?.giveBack(name);
  }

  scheduled(name: string, dueAt: number): void {
    this.poller?.scheduled(name, dueAt);
  }
}
