import type { Duration } from '../common/duration.js';
import { FutureCallOptionsError } from '../contract/future-call.errors.js';
import {
  boolean,
  concurrency,
  durationBetween,
  execution,
  oneOf,
  postgresUrl,
  refuseUnknown,
  requireObject,
  wrong,
} from './future-call.option-readers.js';
import type { FutureCallOutcome } from '../contract/future-call.types.js';

/** Options of `FutureCallModule.forRoot()`. Lengths of time take milliseconds, `'10s'` or `{ seconds: 10 }`. */
export interface FutureCallModuleOptions {
  /**
   * Whether this process runs calls: from boot on, or with `'manual'` when `FutureCallControl` is told to, for serverless
   * functions, scripts and tests. With `false` it schedules and cancels, opens no connection of its own after boot and
   * never runs a call: for web processes beside separate ones that execute.
   *
   * @default true
   */
  execute?: boolean | 'manual';
  /**
   * How many calls run at one time in this process, over all handlers; each `runDue()` has slots of its own. Raise it
   * for handlers that wait on the network; it does not add CPU. From 1 to 10,000.
   *
   * @default 10
   */
  concurrency?: number;
  /**
   * Whether to claim ahead of free slots, about 50 ms of work by how long a handler's calls have taken lately. Handlers
   * that take longer claim nothing ahead, and what does not start is given back. A claimed call counts as started: it can
   * no longer be cancelled, and if the process is killed it ends as `interrupted` though its handler never ran. With
   * `false` only what can start now is claimed, at the price of throughput.
   *
   * @default true
   */
  prefetch?: boolean;
  /**
   * How often to look for due calls that nothing announced: rows inserted by hand, a notification that was lost.
   * The longest that such a call is late. From 100 ms to 1 hour.
   *
   * @default 10_000
   */
  pollInterval?: Duration;
  /**
   * How long an instance's liveness lock must be seen missing before its calls are taken from it. Shorter finds a
   * crash sooner and makes more statements (two per `rescueAfter`); much shorter than a reconnect takes, a network
   * hiccup becomes a crash. From 500 ms to 5 minutes.
   *
   * @default 5_000
   */
  rescueAfter?: Duration;
  /**
   * How long running calls may take to finish when the app closes, and when `stop()` is called or `runDue()` ends. Then their `signal` is aborted and what does not
   * end promptly is `interrupted`. Keep it below the grace period of whatever stops the process (Kubernetes: 30 s).
   * From 0 to 1 hour.
   *
   * @default 20_000
   */
  shutdownTimeout?: Duration;
  /**
   * Whether to create and upgrade the tables at boot. With `false` run `futureCallMigrations` yourself; boot fails
   * when the tables are missing or too old.
   *
   * @default true
   */
  migrate?: boolean;
  /**
   * What to do with a call for a name that this process has no handler for: `'refuse'` finds the typo, `'accept'` is
   * for a process whose handlers run elsewhere. A process with `execute: false` always accepts.
   *
   * @default 'refuse'
   */
  unknownNames?: 'refuse' | 'accept';
  /**
   * A connection string for the instance's own connection, when the data source goes through a pooler such as
   * PgBouncer in transaction mode. It must lead to the same database, directly. User, password, database and TLS are
   * the data source's where it states none.
   *
   * @default the data source's own options
   */
  sessionUrl?: string | undefined;
  /**
   * Whether statements on the app's pool, those of scheduling and cancelling, are named prepared ones. Set it to `false` behind a
   * pooler that does not support them.
   *
   * @default true
   */
  preparedStatements?: boolean;
  /**
   * How long rows of `future_call_outcome` are kept, by outcome: a length of time, `true` (for ever) or `false` (none is
   * written). Old ones are deleted in small batches, by one instance at a time. Each deletes by its own `retention`, also
   * what another process keeps: give all that run calls the same.
   *
   * @default { completed: false, failed: '30d', interrupted: '30d', cancelled: false }
   */
  retention?: Partial<Record<FutureCallOutcome, Duration | boolean>>;
}

/** For `forRootAsync({ useClass })` and `useExisting`. */
export interface FutureCallOptionsFactory {
  createFutureCallOptions(): FutureCallModuleOptions | Promise<FutureCallModuleOptions>;
}

/** The options after validation: every length of time in milliseconds. */
export interface ResolvedOptions {
  readonly execute: boolean | 'manual';
  readonly concurrency: number;
  readonly prefetch: boolean;
  readonly pollInterval: number;
  readonly rescueAfter: number;
  readonly shutdownTimeout: number;
  readonly migrate: boolean;
  readonly unknownNames: 'refuse' | 'accept';
  readonly sessionUrl: string | undefined;
  readonly preparedStatements: boolean;
  /** Milliseconds; Infinity keeps for ever, 0 keeps nothing. */
  readonly retention: Readonly<Record<FutureCallOutcome, number>>;
}

const DAY = 86_400_000;

export const DEFAULTS: ResolvedOptions = {
  execute: true,
  concurrency: 10,
  prefetch: true,
  pollInterval: 10_000,
  rescueAfter: 5_000,
  shutdownTimeout: 20_000,
  migrate: true,
  unknownNames: 'refuse',
  sessionUrl: undefined,
  preparedStatements: true,
  retention: { completed: 0, failed: 30 * DAY, interrupted: 30 * DAY, cancelled: 0 },
};

/** The outcomes that are not kept for ever, and for how many milliseconds each is. What is not kept may have been before. */
export function keptForATime({ retention: kept }: ResolvedOptions): [FutureCallOutcome[], number[]] {
  const limited = (Object.entries(kept) as [FutureCallOutcome, number][]).filter(
    ([, milliseconds]) => milliseconds !== Infinity,
  );
  return [limited.map(([outcome]) => outcome), limited.map(([, milliseconds]) => milliseconds)];
}

/** Injection token of the resolved options. */
export const FUTURE_CALL_OPTIONS = Symbol('FUTURE_CALL_OPTIONS');

/** Injection token of the data source that holds the calls. */
export const FUTURE_CALL_DATA_SOURCE = Symbol('FUTURE_CALL_DATA_SOURCE');

/** Fills in the defaults. Throws `FutureCallOptionsError`, naming the option, the value and what it takes. */
export function resolveOptions(options: FutureCallModuleOptions): ResolvedOptions {
  requireObject('FutureCallModule', options);
  if ((options as { dataSource?: unknown }).dataSource !== undefined) {
    throw new FutureCallOptionsError(
      `FutureCallModule's dataSource shapes the module graph, and comes too late from a factory. ` +
        `Put it beside useFactory: forRootAsync({ dataSource: 'name', useFactory: … }).`,
    );
  }
  refuseUnknown('FutureCallModule', options, [...Object.keys(DEFAULTS), 'dataSource']);
  const read = <K extends keyof ResolvedOptions>(
    name: K,
    reader: (name: string, value: unknown) => ResolvedOptions[K],
  ): ResolvedOptions[K] => {
    const value = (options as Record<string, unknown>)[name];
    return value === undefined ? DEFAULTS[name] : reader(`FutureCallModule's ${name}`, value);
  };
  return {
    execute: read('execute', execution),
    concurrency: read('concurrency', concurrency),
    prefetch: read('prefetch', boolean),
    pollInterval: read('pollInterval', durationBetween(100, 3_600_000)),
    rescueAfter: read('rescueAfter', durationBetween(500, 300_000)),
    shutdownTimeout: read('shutdownTimeout', durationBetween(0, 3_600_000)),
    migrate: read('migrate', boolean),
    unknownNames: read('unknownNames', oneOf('refuse', 'accept')),
    sessionUrl: read('sessionUrl', postgresUrl),
    preparedStatements: read('preparedStatements', boolean),
    retention: read('retention', retention),
  };
}

function retention(name: string, value: unknown): ResolvedOptions['retention'] {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw wrong(name, value, `an object such as { completed: '7d' }`);
  }
  refuseUnknown(name, value, Object.keys(DEFAULTS.retention));
  const given = Object.entries(value).filter(([, keep]) => keep !== undefined);
  return {
    ...DEFAULTS.retention,
    ...Object.fromEntries(given.map(([outcome, keep]) => [outcome, keepFor(`${name}.${outcome}`, keep)])),
  };
}

function keepFor(name: string, value: unknown): number {
  if (value === true) return Infinity;
  return value === false ? 0 : durationBetween(1_000, 100 * 365 * DAY)(name, value);
}
