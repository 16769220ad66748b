import type { Duration } from '../common/duration.js';
import type { FutureCallHandlerClass } from './future-call.types.js';

/** Options of `FutureCallControl.runDue()`. */
export interface RunDueOptions {
  /**
   * The handlers whose calls are run, by class or name. None for an empty list.
   *
   * @default all of this process
   */
  handlers?: readonly (string | FutureCallHandlerClass)[];
  /**
   * How many calls are started at most. It bounds the work, not the time: that is what `for` is for. From 1 to
   * 1,000,000,000.
   *
   * @default no limit
   */
  limit?: number;
  /**
   * For how long calls are started, from the moment of asking. What runs then has up to `shutdownTimeout` to finish, so
   * keep both together below what the platform allows a request, and this one above one and a half times `rescueAfter`:
   * in less time no dead instance can be rescued. From 1 ms to 24 hours.
   *
   * @default as long as there is something to do
   */
  for?: Duration;
}

/** What `FutureCallControl.runDue()` did. */
export interface RunDueResult {
  /** Attempts that were started: the sum of the next four, unless the database was away when they ended. */
  readonly started: number;
  readonly completed: number;
  /** Those that failed for good. */
  readonly failed: number;
  /** Those that failed, and whose call is pending again. */
  readonly retried: number;
  /** Those that had not finished when `shutdownTimeout` was over. */
  readonly interrupted: number;
  /** Calls of dead instances, which were given their outcome or their next attempt: none of `started`. */
  readonly rescued: number;
  /**
   * When the next pending call of these handlers is due, by the database's clock, or null when there is none. In the past
   * when some are due already: `limit` was reached, `for` was over, or somebody's transaction holds them.
   */
  readonly nextDueAt: Date | null;
}
