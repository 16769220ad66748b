import type { TestDatabase } from './database.js';

/** Statements that were run, by the name of what they do. */
export type StatementCounts = Record<string, number>;

/** Whether the server counts statements: it must have been started with pg_stat_statements. */
export async function countsStatements(database: TestDatabase): Promise<boolean> {
  const [row] = await database.query<{ libraries: string }>(
    `select current_setting('shared_preload_libraries') as libraries`,
  );
  return row!.libraries.includes('pg_stat_statements');
}

/** Begins to count what instances do in this database: everything that the tests' own connections do not. */
export async function countStatements(database: TestDatabase): Promise<() => Promise<StatementCounts>> {
  await database.query('create extension if not exists pg_stat_statements');
  await database.query('select pg_stat_statements_reset()');
  return async () => {
    const rows = await database.query<{ query: string; calls: string }>(
      `select query, calls from pg_stat_statements
       where dbid = (select oid from pg_database where datname = current_database())
         and query not like '%pg_stat_statements%' and query !~ 'test:'`,
    );
    const counts: StatementCounts = {};
    for (const { query, calls } of rows) {
      const kind = kindOf(query);
      counts[kind] = (counts[kind] ?? 0) + Number(calls);
    }
    return counts;
  };
}

function kindOf(query: string): string {
  if (query.includes('with moved as')) return 'claim';
  if (query.includes('with held as')) return 'look';
  if (/^\s*delete from .*future_call_running/.test(query)) return 'complete';
  return query.replace(/\s+/g, ' ').trim().slice(0, 80);
}
