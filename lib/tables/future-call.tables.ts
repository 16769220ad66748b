import type { DataSource } from 'typeorm';
import {
  FutureCallEntity,
  FutureCallInstanceEntity,
  FutureCallOutcomeEntity,
  FutureCallRunningEntity,
} from './future-call.entity.js';
import { FutureCallOptionsError } from '../contract/future-call.errors.js';

/** One table: its bare name, and its path as SQL takes it, quoted and with its schema. */
export interface FutureCallTable {
  readonly name: string;
  readonly path: string;
}

/** The tables' names in one data source: its `schema`, `entityPrefix` and naming strategy are honoured. */
export interface FutureCallTables {
  /** The schema's bare name. Always stated in SQL, so that no connection's `search_path` decides what we touch. */
  readonly schema: string;
  readonly pending: FutureCallTable;
  readonly running: FutureCallTable;
  readonly outcome: FutureCallTable;
  readonly instance: FutureCallTable;
}

const POSTGRES_NAME_BYTES = 63;

/** Names the tables of an initialized data source. Migrations run without our entities' metadata, so it is not used. */
export function futureCallTables(dataSource: DataSource): FutureCallTables {
  // The driver's schema: the `schema` option, or what `current_schema()` said when the data source connected.
  const schema = dataSource.driver.schema ?? 'public';
  refuseLong(schema, 'schema');
  const table = (entity: new () => object, given: string): FutureCallTable => {
    const name = prefixed(dataSource, dataSource.namingStrategy.tableName(entity.name, given));
    return { name, path: `${quoteName(schema)}.${quoteName(name)}` };
  };
  return {
    schema,
    pending: table(FutureCallEntity, 'future_call'),
    running: table(FutureCallRunningEntity, 'future_call_running'),
    outcome: table(FutureCallOutcomeEntity, 'future_call_outcome'),
    instance: table(FutureCallInstanceEntity, 'future_call_instance'),
  };
}

/** A name as SQL takes it. */
export function quoteName(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}

function prefixed(dataSource: DataSource, name: string): string {
  const prefix = dataSource.options.entityPrefix;
  const whole = prefix ? dataSource.namingStrategy.prefixTableName(prefix, name) : name;
  refuseLong(whole, 'entityPrefix');
  return whole;
}

/** PostgreSQL would cut the name without an error, and two tables would become one. */
function refuseLong(name: string, option: 'schema' | 'entityPrefix'): void {
  if (Buffer.byteLength(name) <= POSTGRES_NAME_BYTES) return;
  throw new FutureCallOptionsError(
    `The name "${name}" is longer than PostgreSQL's ${POSTGRES_NAME_BYTES} bytes. Shorten the data source's ${option}.`,
  );
}
