import { DataSource, type DataSourceOptions } from 'typeorm';
import { onTestFinished } from 'vitest';
import { futureCallEntities } from '../../lib/index.js';
import type { TestDatabase } from './database.js';

export type PostgresOptions = Partial<Extract<DataSourceOptions, { type: 'postgres' }>>;

/** A data source without Nest, as TypeORM's CLI makes one. */
export async function connect(database: TestDatabase, options: PostgresOptions = {}): Promise<DataSource> {
  const dataSource = new DataSource({ type: 'postgres', url: database.url, ...options });
  await dataSource.initialize();
  onTestFinished(async () => {
    if (dataSource.isInitialized) await dataSource.destroy();
  });
  return dataSource;
}

/** What `typeorm migration:generate` would write, and what it would write to take that back. */
export async function schemaDiff(
  database: TestDatabase,
  options: PostgresOptions = {},
): Promise<{ up: string[]; down: string[] }> {
  const dataSource = await connect(database, { entities: [...futureCallEntities], ...options });
  const { upQueries, downQueries } = await dataSource.driver.createSchemaBuilder().log();
  await dataSource.destroy();
  return { up: upQueries.map(({ query }) => query), down: downQueries.map(({ query }) => query) };
}

/** What `schemaDiff` says when there is nothing to do. */
export const NO_DIFF = { up: [], down: [] };

/**
 * Everything that PostgreSQL knows of the tables of future calls: columns, types, defaults, nullability, identity,
 * constraints, indexes, sequences, storage settings, comments, owners and rights. Two databases with equal catalogs
 * have the same tables.
 */
export async function readCatalog(database: TestDatabase, schema = 'public'): Promise<unknown> {
  const [row] = await database.query<{ catalog: object }>(
    `with ours as (
       select c.* from pg_class c join pg_namespace n on n.oid = c.relnamespace
       where n.nspname = $1 and c.relname ~* 'future_?call'
     )
     select jsonb_object_agg(relname, jsonb_build_object(
       'kind', relkind, 'persistence', relpersistence, 'settings', reloptions, 'owner', relowner::regrole,
       'rights', relacl, 'rowSecurity', relrowsecurity, 'replicaIdentity', relreplident,
       'comment', obj_description(oid, 'pg_class'),
       'toastSettings', (select t.reloptions from pg_class t where t.oid = ours.reltoastrelid),
       'columns', (select jsonb_agg(jsonb_build_object(
           'name', attname, 'type', format_type(atttypid, atttypmod), 'notNull', attnotnull, 'identity', attidentity,
           'generated', attgenerated, 'collation', attcollation::regcollation, 'storage', attstorage,
           'compression', attcompression, 'statistics', attstattarget, 'comment', col_description(attrelid, attnum),
           'default', (select pg_get_expr(adbin, adrelid) from pg_attrdef where adrelid = attrelid and adnum = attnum)
         ) order by attnum) from pg_attribute where attrelid = ours.oid and attnum > 0 and not attisdropped),
       'constraints', (select jsonb_object_agg(conname, pg_get_constraintdef(k.oid))
          from pg_constraint k where conrelid = ours.oid),
       'triggers', (select jsonb_agg(tgname) from pg_trigger where tgrelid = ours.oid),
       'index', case relkind when 'i' then pg_get_indexdef(oid) end,
       'sequence', (select jsonb_build_object('type', seqtypid::regtype, 'start', seqstart, 'increment', seqincrement,
          'max', seqmax, 'min', seqmin, 'cycle', seqcycle) from pg_sequence where seqrelid = ours.oid)
     )) as catalog
     from (
       select * from ours union
       select i.* from pg_class i join pg_index x on x.indexrelid = i.oid where x.indrelid in (select oid from ours)
     ) ours`,
    [schema],
  );
  return row?.catalog;
}
