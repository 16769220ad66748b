import { setTimeout as sleep } from 'node:timers/promises';
import { now } from './clock.mjs';

/** @import { Contender, Database, Executor, Lab } from '../types.js' */

/** Nothing moved for so long, in milliseconds: somebody is stuck. */
const PATIENCE = 60_000;

/**
 * Waits until the processes have started that many calls together.
 *
 * @param {Lab} lab
 * @param {Executor[]} executors
 * @param {number} total
 * @param {(count: number) => void} [onProgress]
 */
export async function started(lab, executors, total, onProgress) {
  let before = -1;
  let movedAt = now();
  for (;;) {
    const count = executors.reduce((sum, executor) => sum + executor.count, 0);
    if (count !== before) {
      before = count;
      movedAt = now();
      lab.progress(`${count.toLocaleString('en')} of ${total.toLocaleString('en')}`);
      onProgress?.(count);
    }
    if (count >= total) return;
    if (!executors.every(({ isAlive }) => isAlive)) throw new Error('A measured process has died.');
    if (now() - movedAt > PATIENCE) throw new Error(`Stuck at ${count} of ${total} calls.`);
    await sleep(2);
  }
}

/**
 * Resolves when nothing is due and nothing runs, as the database sees it.
 *
 * @param {Contender} contender
 * @param {Database} database
 */
export async function finished({ unfinished, label }, { client }) {
  const start = now();
  for (;;) {
    const { rows } = await client.query(`select ${unfinished} as unfinished`);
    if (!rows[0].unfinished) return;
    if (now() - start > PATIENCE) throw new Error(`${label} does not come to an end.`);
    await sleep(2);
  }
}

/**
 * Works off what is due, with one or more processes: from the first handler's start until the database knows that
 * all are done (`rate`), or until the last one's start (`startRate`). Booting is not counted: where several processes
 * boot, what is to be done may wait for all of them (`ready`), or the first one would work while the others still boot.
 *
 * @param {Lab} lab
 * @param {Contender} contender
 * @param {Database} database
 * @param {{ count: number, processes?: number, handlers?: object, concurrency?: number, options?: object,
 *   ready?: () => Promise<unknown>, onProgress?: (count: number) => void }} what
 */
export async function workOff(lab, contender, database, what) {
  const { count, processes = 1, handlers = { noop: {} }, concurrency, options, ready, onProgress } = what;
  const executors = Array.from({ length: processes }, () =>
    lab.executor(contender, { url: database.url, handlers, concurrency, options }),
  );
  await Promise.all(executors.map((executor) => executor.start()));
  await ready?.();
  await started(lab, executors, count, onProgress);
  await finished(contender, database);
  const end = now();
  const reports = await Promise.all(executors.map((executor) => executor.report()));
  const total = reports.reduce((sum, report) => sum + report.count, 0);
  if (total !== count) throw new Error(`${contender.label} started ${total} calls of ${count}.`);
  const begin = Math.min(...reports.filter((report) => report.count > 0).map(({ firstAt }) => firstAt));
  const last = Math.max(...reports.map(({ lastAt }) => lastAt));
  await Promise.all(executors.map((executor) => executor.stop()));
  const perSecond = (milliseconds) => (count / milliseconds) * 1_000;
  return { rate: perSecond(end - begin), startRate: perSecond(last - begin), reports };
}
