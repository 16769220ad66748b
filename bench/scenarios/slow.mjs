import { setTimeout as sleep } from 'node:timers/promises';
import { futureCall } from '../contenders/future-call.mjs';
import { graphileWorker } from '../contenders/graphile-worker.mjs';
import { pgBossNotified } from '../contenders/pg-boss.mjs';
import { now, toWall } from '../suite/clock.mjs';
import { atMost } from '../suite/goals.mjs';
import { finished, started } from '../suite/work-off.mjs';

/** @import { Executor, Lab, Scenario } from '../types.js' */

const PROCESSES = 3;
/** The default of everybody here. */
const SLOTS = 10;
/** Time to insert the calls, in milliseconds. */
const AHEAD = 1_500;
/** Nobody starts anything for so long after the last handler can have ended: who is left has nothing to do. */
const STILL = 3_000;

const KINDS = {
  '0.2 s': { work: 200, count: 200 },
  '2 s': { work: 2_000, count: 200 },
  // As many as can show how they are shared, of what would otherwise take a minute.
  '10 s': { work: 10_000, count: 60 },
  '2 s in one call of ten': { work: 2_000, count: 600, every: 10 },
};

/** @type {Scenario} */
export const slow = {
  name: 'slow',
  title: `calls of slow handlers due at one instant, ${PROCESSES} processes with ${SLOTS} slots each; then again, and one is killed`,
  contenders: [futureCall, graphileWorker, pgBossNotified],
  variants: Object.keys(KINDS).map((name) => ({
    name,
    // A minute and more for everybody.
    ...(name === '10 s' && { only: [futureCall.id] }),
  })),
  metrics: {
    makespan: { label: 'until all have ended', unit: 's', better: 'lower', digits: 2 },
    factor: { label: 'times the ideal', better: 'lower', digits: 2 },
    most: { label: 'calls of the busiest process' },
    unrun: { label: 'never ran after a kill', better: 'lower' },
  },

  async measure(lab, contender, database, variant) {
    const { work, every = 1, ...full } = KINDS[variant];
    const count = lab.size(full.count, 60);
    await contender.prepare(database, ['slow']);
    await lab.settle(database);
    const executors = Array.from({ length: PROCESSES }, () =>
      lab.executor(contender, { url: database.url, handlers: { slow: { work, every, prompt: true } } }),
    );
    await Promise.all(executors.map((executor) => executor.start()));
    const scheduler = await lab.scheduler(contender, { url: database.url, handlers: ['slow'] });
    const fill = async (calls) => {
      const dueAt = Math.ceil(Date.now() + AHEAD);
      const due = `to_timestamp(${dueAt / 1_000})`;
      await contender.fill(database, { handler: 'slow', count: calls - 1, due });
      // And one as an app schedules it: what was inserted by hand waits for a poll otherwise.
      const delay = dueAt - Date.now();
      if (delay < 0) throw new Error(`${contender.label} was not filled in time.`);
      await scheduler.flood({ handler: 'slow', count: 1, inFlight: 1, delay });
      return dueAt;
    };

    const dueAt = await fill(count);
    await started(lab, executors, count);
    await finished(contender, database);
    const reports = await Promise.all(executors.map((executor) => executor.report()));
    const makespan = Math.max(...reports.map(({ lastEndAt }) => toWall(lastEndAt))) - dueAt;
    const most = Math.max(...reports.map((report) => report.count));

    const unrun = await lostByKill(lab, executors, { work, every, count, fill });
    return { makespan: makespan / 1_000, factor: makespan / ideal({ work, every, count }), most, unrun };
  },

  goals: (results) =>
    Object.keys(KINDS).flatMap((kind) => {
      const ours = results(futureCall.id, kind);
      return [
        atMost(`${kind}: ours, times the ideal`, 1.15, '×', ours?.factor),
        atMost(`${kind}: ours, interrupted by a kill without having run`, 1, 'calls', ours?.unrun),
      ];
    }),
  plot: { metric: 'factor' },
};

/**
 * How long it takes in milliseconds when a free slot takes the next call at once, wherever it is.
 *
 * @param {{ work: number, every: number, count: number }} what
 */
const ideal = ({ work, every, count }) => Math.ceil(count / every / (PROCESSES * SLOTS)) * work;

/**
 * Kills a process at a random moment. Answers with how many calls have never started, although everybody else has
 * nothing to do any more: the dead one had taken them, and had not come to them.
 *
 * @param {Lab} lab
 * @param {Executor[]} executors
 * @param {{ work: number, every: number, count: number, fill: (count: number) => Promise<number> }} what
 */
async function lostByKill(lab, executors, { work, every, count, fill }) {
  const all = () => executors.reduce((sum, executor) => sum + executor.count, 0);
  const before = all();
  const dueAt = await fill(count);
  // While there are calls that have not started.
  const moment = Math.random() * (ideal({ work, every, count }) - work);
  await sleep(dueAt + moment - Date.now());
  await executors[0].kill();
  let seen = all();
  let movedAt = now();
  while (now() - movedAt < work + STILL) {
    lab.progress(`${seen - before} of ${count} after a kill`);
    await sleep(50);
    if (all() === seen) continue;
    seen = all();
    movedAt = now();
  }
  return before + count - seen;
}
