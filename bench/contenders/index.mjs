import { bareInsert, bareTimer } from './bare.mjs';
import { bullmq } from './bullmq.mjs';
import { futureCall } from './future-call.mjs';
import { graphileWorker, graphileWorkerTuned } from './graphile-worker.mjs';
import { pgBoss, pgBossDefault, pgBossNotified } from './pg-boss.mjs';
import { sqlLimit, sqlLimitUpdate } from './sql-limit.mjs';

/** @import { Contender } from '../types.js' */

/** @type {Contender[]} */
export const contenders = [
  futureCall,
  graphileWorkerTuned,
  graphileWorker,
  pgBoss,
  pgBossNotified,
  pgBossDefault,
  bullmq,
  sqlLimit,
  sqlLimitUpdate,
  bareInsert,
  bareTimer,
];

/** @param {string} id @returns {Contender} */
export function contenderById(id) {
  const found = contenders.find((contender) => contender.id === id);
  if (!found) throw new Error(`There is no contender "${id}".`);
  return found;
}
