import pg from 'pg';
import type { DataSource } from 'typeorm';
import { FutureCallSessionError } from '../contract/future-call.errors.js';

/** What pg makes of options, of a connection string and of the environment. */
interface ConnectionParameters {
  readonly host: string;
  readonly port: number;
  readonly user?: string;
  readonly database?: string;
  readonly password: pg.ClientConfig['password'] | null;
  readonly ssl: pg.ClientConfig['ssl'];
  readonly isDomainSocket: boolean;
  readonly options?: string;
  readonly client_encoding?: string;
  readonly sslnegotiation?: string;
}

/**
 * How to connect as the data source's pool does, or to where the URL leads. What the URL does not state is the data
 * source's: it leads to the same database.
 */
export function connectionOptions(dataSource: DataSource, url: string | undefined): pg.ClientConfig {
  const pool = poolOptions(dataSource);
  if (url === undefined) return pool;
  // Not as a connection string: what pg reads from one replaces all that is given beside it, and be it by nothing.
  const own = read({ connectionString: url });
  const theirs = read(pool);
  const [, account] = /^\w+:\/\/([^/?#]*)@/.exec(url) ?? [];
  const [name = '', password = ''] = account?.split(/:(.*)/s) ?? [];
  const user = name !== '' || states(url, 'user') ? own.user : theirs.user;
  // Another user's password would be in the way of .pgpass.
  const isTheirs = password === '' && !states(url, 'password') && user === theirs.user;
  return {
    host: own.host,
    port: own.port,
    user,
    database: /^\w+:\/\/[^/?#]*\/[^?#]/.test(url) ? own.database : theirs.database,
    password: isTheirs ? theirs.password : own.password,
    ssl: tls(url, own, theirs),
    sslnegotiation: own.sslnegotiation,
    options: own.options,
    client_encoding: own.client_encoding,
  } as pg.ClientConfig;
}

/** Where options lead to, in words and without a password. */
export function placeOf(options: pg.ClientConfig): string {
  const { host, port, database } = read(options);
  return `"${database}" at ${host}:${port}`;
}

/**
 * The URL says whether there is TLS and how strict it is; certificates come from the data source where it names none. pg
 * lets nobody say both: what it reads from `sslmode` replaces a certificate authority that is given beside it.
 */
function tls(url: string, own: ConnectionParameters, theirs: ConnectionParameters): pg.ClientConfig['ssl'] {
  if (!states(url, String.raw`ssl\w*`)) return own.isDomainSocket ? own.ssl : theirs.ssl;
  if (own.ssl === false || typeof theirs.ssl !== 'object') return own.ssl;
  const stated = typeof own.ssl === 'object' ? own.ssl : {};
  // pg hides the key, so that a logged client does not show it.
  const { key } = theirs.ssl;
  const given = { ...theirs.ssl, ...(key !== undefined && { key }) };
  if (states(url, 'sslmode=verify-')) {
    delete given.rejectUnauthorized;
    delete given.checkServerIdentity;
  }
  return { ...given, ...stated };
}

const states = (url: string, parameter: string) =>
  new RegExp(`[?&]${parameter}${parameter.includes('=') ? '' : '=.'}`).test(url);

function read(options: pg.ClientConfig): ConnectionParameters {
  return (new pg.Client(options) as unknown as { connectionParameters: ConnectionParameters })
    .connectionParameters;
}

function poolOptions(dataSource: DataSource): pg.ClientConfig {
  const { master } = dataSource.driver as unknown as { master?: { options: pg.PoolConfig } };
  if (master === undefined) {
    throw new FutureCallSessionError(
      `The data source of future calls has been destroyed, so there is no connection to the database. Close the app before its data source.`,
    );
  }
  const { options } = master;
  // pg-pool hides these two from enumeration, so that a logged pool does not show them.
  return { ...options, password: options.password, ssl: options.ssl };
}
