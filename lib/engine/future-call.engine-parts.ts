import type { DataSource } from 'typeorm';
import type { FutureCallEvents } from '../contract/future-call.events.js';
import type { ResolvedOptions } from '../module/future-call.options.js';
import type { FutureCallClock } from '../store/future-call.clock.js';
import { FutureCallClaimStore } from '../store/future-call.claim-store.js';
import { FutureCallEndingStore } from '../store/future-call.ending-store.js';
import { FutureCallInstanceStore } from '../store/future-call.instance-store.js';
import type { FutureCallSchema } from '../store/future-call.schema.js';
import { FutureCallSession } from '../store/future-call.session.js';
import { FutureCallCompleter } from './future-call.completer.js';
import { FutureCallExecutor } from './future-call.executor.js';
import { FutureCallPoller } from './future-call.poller.js';
import { FutureCallPruner } from './future-call.pruner.js';
import { FutureCallReleaser } from './future-call.releaser.js';
import { FutureCallRescuer } from './future-call.rescuer.js';
import { FutureCallSlots } from './future-call.slots.js';

/** What outlasts an engine: the app's. */
export interface EngineSurroundings {
  readonly dataSource: DataSource;
  readonly options: ResolvedOptions;
  readonly schema: FutureCallSchema;
  readonly clock: FutureCallClock;
  readonly events: FutureCallEvents;
}

/** What an engine consists of, each with one duty. All of it works on one session. */
export interface EngineParts {
  /** The connection, with the liveness lock. */
  readonly session: FutureCallSession;
  /** Claims calls. */
  readonly claims: FutureCallClaimStore;
  /** Ends calls, or gives them back. */
  readonly endings: FutureCallEndingStore;
  /** What it asks of the database about instances. */
  readonly instances: FutureCallInstanceStore;
  /** Which call may start, and how much may be claimed. */
  readonly slots: FutureCallSlots;
  /** Records how attempts ended. */
  readonly completer: FutureCallCompleter;
  /** Gives back what was claimed and does not start. */
  readonly releaser: FutureCallReleaser;
  /** Invokes the handlers. */
  readonly executor: FutureCallExecutor;
  /** Decides when to claim. */
  readonly poller: FutureCallPoller;
  /** Gives the calls of dead instances their outcome. */
  readonly rescuer: FutureCallRescuer;
  /** Deletes outcomes that were kept long enough. */
  readonly pruner: FutureCallPruner;
}

/** `limit`: how many calls it claims in all. */
export function assembleEngine(
  { dataSource, options, schema, clock, events }: EngineSurroundings,
  limit: number,
): EngineParts {
  const session = new FutureCallSession(dataSource, options, schema, clock);
  const claims = new FutureCallClaimStore(options, session);
  const endings = new FutureCallEndingStore(options, session);
  const instances = new FutureCallInstanceStore(options, session);
  const slots = new FutureCallSlots(options);
  const completer = new FutureCallCompleter(endings, session);
  const releaser = new FutureCallReleaser(endings, session, slots, events);
  const executor = new FutureCallExecutor(session, slots, completer, releaser, events);
  const poller = new FutureCallPoller(options, claims, session, slots, executor, limit);
  const rescuer = new FutureCallRescuer(options, instances, session, events);
  const pruner = new FutureCallPruner(options, endings, session);
  return {
    session,
    claims,
    endings,
    instances,
    slots,
    completer,
    releaser,
    executor,
    poller,
    rescuer,
    pruner,
  };
}
