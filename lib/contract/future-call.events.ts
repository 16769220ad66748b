import { Injectable } from '@nestjs/common';
import { Subject, type Observable } from 'rxjs';

/** What every event of a call says. */
interface OfCall {
  readonly id: string;
  readonly name: string;
  readonly identifier: string | null;
}

/** What every event of an attempt says. `attempt` is counted from 1. */
interface OfAttempt extends OfCall {
  readonly attempt: number;
}

/** A call was accepted. Inside a transaction it exists only if that commits. */
export interface FutureCallScheduled extends OfCall {
  readonly type: 'scheduled';
  readonly dueAt: Date;
}

/** A handler is about to be invoked. */
export interface FutureCallStarted extends OfAttempt {
  readonly type: 'started';
  readonly dueAt: Date;
}

/** An attempt completed, and this is recorded. */
export interface FutureCallCompleted extends OfAttempt {
  readonly type: 'completed';
}

/** An attempt failed. `willRetry`: the call is pending again, or will be in a moment. */
export interface FutureCallFailed extends OfAttempt {
  readonly type: 'failed';
  readonly error: unknown;
  readonly willRetry: boolean;
}

/** An attempt ended with its instance. `willRetry`: the call is pending again. */
export interface FutureCallInterrupted extends OfAttempt {
  readonly type: 'interrupted';
  readonly instanceId: number;
  readonly willRetry: boolean;
}

/** A call was cancelled. Inside a transaction only if that commits. */
export interface FutureCallCancelled extends OfCall {
  readonly type: 'cancelled';
}

/** A claimed call was given back before its handler was invoked. */
export interface FutureCallReleased extends OfCall {
  readonly type: 'released';
}

/** This instance has a session: after the start, or again. */
export interface FutureCallConnected {
  readonly type: 'connected';
  readonly instanceId: number;
}

/** This instance lost its session, and reconnects. */
export interface FutureCallDisconnected {
  readonly type: 'disconnected';
  readonly instanceId: number;
  readonly error: Error;
}

/** This instance found another one dead and gave its calls their outcome. */
export interface FutureCallRescued {
  readonly type: 'rescued';
  /** Of the dead one. */
  readonly instanceId: number;
  readonly host: string | null;
  readonly pid: number | null;
  /** How many calls it was running. */
  readonly calls: number;
}

/** What `FutureCallService.events` emits: what this process does and finds, not what others do. */
export type FutureCallEvent =
  | FutureCallScheduled
  | FutureCallStarted
  | FutureCallCompleted
  | FutureCallFailed
  | FutureCallInterrupted
  | FutureCallCancelled
  | FutureCallReleased
  | FutureCallConnected
  | FutureCallDisconnected
  | FutureCallRescued;

/** Where the events of this process go. */
@Injectable()
export class FutureCallEvents {
  private readonly subject = new Subject<FutureCallEvent>();

  /** Hot. What a subscriber throws is reported by rxjs in a turn of its own and does not reach the engine. */
  readonly observable: Observable<FutureCallEvent> = this.subject.asObservable();

  /** Whether anybody listens: most apps do not, and 50,000 events a second are not free. */
  get observed(): boolean {
    return this.subject.observed;
  }

  emit(event: FutureCallEvent): void {
    this.subject.next(event);
  }

  complete(): void {
    this.subject.complete();
  }
}
