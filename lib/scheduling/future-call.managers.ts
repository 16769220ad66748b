import { Inject, Injectable } from '@nestjs/common';
import type { DataSource, EntityManager } from 'typeorm';
import { FutureCallOptionsError } from '../contract/future-call.errors.js';
import { FUTURE_CALL_DATA_SOURCE } from '../module/future-call.options.js';
import { dataSourceOf } from '../tables/future-call.data-source.js';

/** The managers that callers pass: which of them are of our data source, and which may be in a transaction. */
@Injectable()
export class FutureCallManagers {
  constructor(@Inject(FUTURE_CALL_DATA_SOURCE) private readonly dataSource: DataSource) {}

  /** The caller's manager, if it is one of our data source: a call in another database would be lost. */
  own(manager: EntityManager | undefined): EntityManager | undefined {
    if (manager === undefined) return undefined;
    if (dataSourceOf(manager) !== this.dataSource) {
      throw new FutureCallOptionsError(
        `The manager belongs to another data source than the one that FutureCallModule uses. Pass a manager of that one, or none.`,
      );
    }
    if (manager.queryRunner?.isReleased === true) {
      throw new FutureCallOptionsError(
        `The manager's transaction is over. Await scheduling and cancelling inside of the transaction.`,
      );
    }
    return manager;
  }

  /**
   * Whether what runs on it may commit late. A manager with a connection of its own may be in a transaction, of which
   * TypeORM knows nothing if it was begun in SQL. typeorm-transactional keeps an ambient one behind
   * `dataSource.manager`.
   */
  mayCommitLate(manager: EntityManager = this.dataSource.manager): boolean {
    return manager.queryRunner !== undefined;
  }
}
