/** How PostgreSQL is told to end: wait for its clients, disconnect them, or as in a crash. */
export type ServerMode = 'smart' | 'fast' | 'immediate';

export interface TemporaryOptions {
  /** Server settings (`-c name=value`). PostgreSQL's durable defaults where nothing is given. */
  settings?: Record<string, string | number | boolean>;
  /** Also listen on a free TCP port of 127.0.0.1. Default: a Unix socket only (TCP on Windows). */
  listen?: boolean;
  /** The binaries of another PostgreSQL, such as `/usr/lib/postgresql/15/bin`. */
  binDir?: string;
  /** Told what happens, one line each. Default: nothing is printed. */
  log?: (message: string) => void;
}

export interface StartOptions extends TemporaryOptions {
  /** The cluster's folder. Created when missing, reused when it exists, attached to when a server runs on it. */
  dataDir: string;
}

export interface PostgresServer {
  /** The URL of the database `postgres`, for `pg` and for TypeORM. */
  readonly url: string;
  readonly port: number;
  readonly socketDir: string;
  /** Where the cluster really is: elsewhere than asked for, where the server's user could not enter that. */
  readonly dataDir: string;
  /** Such as `18.4`. */
  readonly version: string;
  /** True when the server ran already: whoever started it may still need it. */
  readonly attached: boolean;
  readonly databaseUrl: (name: string) => string;
  /** Stops the server; does nothing when it does not run. */
  readonly stop: (mode?: ServerMode) => Promise<void>;
  /** Stops and starts it, at the same place. */
  readonly restart: (mode?: ServerMode) => Promise<void>;
  /** Starts it again after `stop`, at the same place. */
  readonly start: () => Promise<void>;
}

export interface TemporaryPostgres extends PostgresServer {
  /** Stops the server and removes its folder. */
  readonly stop: (mode?: ServerMode) => Promise<void>;
  /** Stops the server and keeps its folder: `start()` continues. */
  readonly halt: (mode?: ServerMode) => Promise<void>;
}

export function startPostgres(options: StartOptions): Promise<PostgresServer>;

/** A cluster in a fresh folder, which is stopped and removed at the latest when this process ends, however it ends. */
export function temporaryPostgres(options?: TemporaryOptions): Promise<TemporaryPostgres>;
