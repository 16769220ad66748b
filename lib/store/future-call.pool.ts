import { Inject, Injectable } from '@nestjs/common';
import type { DataSource, EntityManager } from 'typeorm';
import {
  FUTURE_CALL_DATA_SOURCE,
  FUTURE_CALL_OPTIONS,
  type ResolvedOptions,
} from '../module/future-call.options.js';
import type { Statement } from './future-call.connection.js';
import { statementNames } from './future-call.statement-names.js';

/** A statement for the app's own connections. */
export interface PoolStatement extends Statement {
  readonly name: string;
  /** What loggers and subscribers of the app get to see of it when it is prepared. */
  readonly summary: string;
}

/** The app's own connections: a caller's transaction, or one of the pool. */
@Injectable()
export class FutureCallPool {
  constructor(
    @Inject(FUTURE_CALL_DATA_SOURCE) private readonly dataSource: DataSource,
    @Inject(FUTURE_CALL_OPTIONS) private readonly options: ResolvedOptions,
  ) {}

  /** What a statement of the pool runs on. typeorm-transactional may have put a transaction behind it. */
  get manager(): EntityManager {
    return this.dataSource.manager;
  }

  /** Answers as TypeORM does. */
  async run(
    statement: PoolStatement,
    values: unknown[],
    manager: EntityManager = this.manager,
  ): Promise<unknown> {
    const name = this.options.preparedStatements ? statementNames.present(statement.name) : undefined;
    try {
      return await manager.query(asQuery(statement, name), values);
    } catch (error) {
      if (!statementNames.isOutdated(error, statement.name, name)) throw error;
      // A transaction has failed with it, and may be one that nobody has told TypeORM of: what is tried next succeeds.
      if (manager.queryRunner !== undefined) throw error;
      return manager.query(asQuery(statement, statementNames.present(statement.name)), values);
    }
  }
}

/**
 * TypeORM hands the query on as it is: to pg, which takes its `name` and `text`, and to loggers and subscribers, to whom
 * it must be a string. A short one: pg copies each of its characters as a property, 0.7 ms for the whole text.
 */
function asQuery({ summary, text }: PoolStatement, name: string | undefined): string {
  return name === undefined ? text : (Object.assign(Object(summary), { name, text }) as string);
}
