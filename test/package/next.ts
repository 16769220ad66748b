import type { FutureCallEvent, FutureCallService } from 'nestjs-future-call';

/**
 * The next event of a type; a call that fails before is an error. Without rxjs's operators: an rxjs before 7.5.5 has no
 * types that `module: nodenext` finds, and the event's type has to be stated.
 */
export function next<T extends FutureCallEvent['type']>({ events }: FutureCallService, type: T) {
  return new Promise<Extract<FutureCallEvent, { type: T }>>((resolve, reject) => {
    const subscription = events.subscribe((event: FutureCallEvent) => {
      if (event.type === 'failed' && type !== 'failed') reject(event.error);
      if (event.type !== type) return;
      subscription.unsubscribe();
      resolve(event as Extract<FutureCallEvent, { type: T }>);
    });
  });
}
