import type { DataSource, EntityManager, QueryRunner } from 'typeorm';

/** The data source that a manager or a query runner belongs to. TypeORM 1 calls it `dataSource`, 0.3 `connection`. */
export function dataSourceOf(owner: EntityManager | QueryRunner): DataSource {
  const either = owner as { readonly dataSource?: DataSource; readonly connection?: DataSource };
  // In this order: TypeORM 1 has the old name too, and deprecates it.
  return (either.dataSource ?? either.connection)!;
}
