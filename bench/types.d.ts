import type { Client } from 'pg';
import type { TemporaryPostgres } from '../scripts/embedded-postgres.mjs';

/** A database of its own, made for one measurement. */
export interface Database {
  readonly url: string;
  /** Somebody who looks from outside. */
  readonly client: Client;
}

/** Called with a call's data. What it returns is awaited by whoever calls it. */
export type Handler = (data: CallData) => unknown;

/** What every call of the benchmarks carries. */
export interface CallData {
  /** Milliseconds: when it is due (since 1970), or when it was scheduled (monotonic). */
  at: number;
}

export interface ExecuteOptions {
  readonly url: string;
  readonly handlers: Readonly<Record<string, Handler>>;
  /** How many calls run at a time; the contender's own default where nothing is given. */
  readonly concurrency?: number;
  /** What only one contender understands. */
  readonly options?: Readonly<Record<string, unknown>>;
}

export interface Scheduler {
  /** `delay`: in milliseconds. */
  schedule(handler: string, data: CallData, delay: number): Promise<unknown>;
  /** Only where there is such a thing. */
  scheduleMany?(handler: string, data: CallData[]): Promise<unknown>;
  close(): Promise<void>;
}

/** Who is measured. One file each, and one interface for all. */
export interface Contender {
  readonly id: string;
  readonly label: string;
  /** No peer, but what the least or the most is that there can be. */
  readonly isReference?: boolean;
  /** What it is, with its version and settings, for the report. */
  readonly about: string;
  /** Creates the tables. In the suite's process. */
  readonly prepare: (database: Database, handlers: string[]) => Promise<void>;
  /**
   * Inserts calls. `due` is SQL for a `timestamptz` and may use `i`, the call's number from 1. In the suite's
   * process.
   */
  readonly fill?: (
    database: Database,
    calls: { handler: string; count: number; due: string },
  ) => Promise<void>;
  /** An SQL condition: whether a call is due or runs. */
  readonly unfinished?: string;
  /** Starts to run calls; resolves when it is ready. In a measured process. */
  readonly execute?: (options: ExecuteOptions) => Promise<{ stop(): Promise<void> }>;
  /** In a measured process. */
  readonly connect?: (options: { url: string; handlers: string[] }) => Promise<Scheduler>;
  /** For one that has no handlers: works everything off, and tells how many milliseconds that took. */
  readonly workOff?: (database: Database) => Promise<number>;
}

/** What one measurement yields: numbers by name. `undefined` where a contender has no such thing. */
export type Metrics = Record<string, number | undefined>;

export interface Metric {
  readonly label: string;
  readonly unit?: string;
  /** Without it, contenders are not compared in it. */
  readonly better?: 'higher' | 'lower';
  readonly digits?: number;
}

/** Everything a measurement may use. */
export interface Lab {
  readonly server: TemporaryPostgres;
  readonly quick: boolean;
  /** It has been interrupted, or is done. */
  readonly isClosing: boolean;
  /** A size: the full one, or a small one with `--quick`. */
  size(full: number, quick: number): number;
  /** Replaces the progress line. */
  progress(text: string): void;
  /** Starts a measured process that runs calls. */
  executor(contender: Contender, options: Record<string, unknown>): Executor;
  /** Starts a measured process that schedules calls. */
  scheduler(contender: Contender, options: Record<string, unknown>): Promise<SchedulerProcess>;
  /** Vacuums, analyzes and writes a checkpoint, so that all start from the same state. */
  settle(database: Database): Promise<void>;
}

export interface ExecutorReport {
  count: number;
  /** When the first and the last handler started, on the monotonic clock. */
  firstAt: number;
  lastAt: number;
  /** When the last handler ended that takes time. */
  lastEndAt: number;
  /** For handlers that record: `[data.at, started]`, started on the monotonic clock. */
  samples: [number, number][];
  /** Microseconds of CPU since the first handler started. */
  cpu: number;
}

export interface Executor {
  readonly pid: number;
  readonly isAlive: boolean;
  /** How many handlers have started, as last told. */
  readonly count: number;
  start(): Promise<void>;
  memory(): Promise<number>;
  report(): Promise<ExecutorReport>;
  stop(): Promise<void>;
  kill(): Promise<void>;
}

export interface SchedulerProcess {
  /** Schedules at a steady rate, with `{ at: now }` as data. */
  paced(options: { handler: string; count: number; rate: number }): Promise<void>;
  /** Schedules with so many in flight; resolves to the milliseconds it took. */
  flood(options: { handler: string; count: number; inFlight: number; delay: number }): Promise<number>;
  /** Schedules in bulk; resolves to the milliseconds, or undefined where there is no such thing. */
  bulk(options: { handler: string; count: number; size: number }): Promise<number | undefined>;
  kill(): Promise<void>;
}

/** The medians of a scenario's runs, and what they were made of. */
export interface Cell {
  readonly contender: Contender;
  readonly variant: string;
  readonly median: Metrics;
  readonly samples: Metrics[];
  /** Why a measurement failed, where one did. */
  readonly errors: string[];
}

export interface Goal {
  readonly text: string;
  readonly value: number | undefined;
  readonly unit: string;
  readonly target: string;
  readonly met: boolean | undefined;
}

/** What `goals` and `plots` get: the medians by contender and variant. */
export type Results = (contender: string, variant?: string) => Metrics | undefined;

export interface Scenario {
  readonly name: string;
  readonly title: string;
  readonly contenders: Contender[];
  /** The same for several settings; a contender may leave some out. */
  readonly variants?: { name: string; only?: string[] }[];
  readonly metrics: Record<string, Metric>;
  measure(lab: Lab, contender: Contender, database: Database, variant: string): Promise<Metrics>;
  goals?(results: Results): Goal[];
  /** The metric that is drawn. */
  readonly plot?: { metric: string };
  /** How often everybody is measured, where a number says more than a median. */
  readonly runs?: number;
}
