import { bareInsert } from '../contenders/bare.mjs';
import { bullmq } from '../contenders/bullmq.mjs';
import { futureCall } from '../contenders/future-call.mjs';
import { graphileWorker } from '../contenders/graphile-worker.mjs';
import { pgBossDefault } from '../contenders/pg-boss.mjs';
import { atLeast } from '../suite/goals.mjs';
import { ratio } from '../suite/stats.mjs';

/** @import { Scenario } from '../types.js' */

const TOMORROW = 'due tomorrow';
const NOW = 'due now';
const IN_FLIGHT = 16;
/** Every call is a durable commit: who makes few in a second gets fewer. */
const SHARE = { [bullmq.id]: 0.25, [graphileWorker.id]: 0.5, [pgBossDefault.id]: 0.5 };

/** @type {Scenario} */
export const schedule = {
  name: 'schedule',
  title: `scheduling one call at a time, ${IN_FLIGHT} in flight`,
  contenders: [futureCall, graphileWorker, pgBossDefault, bullmq, bareInsert],
  variants: [{ name: TOMORROW }, { name: NOW }],
  metrics: { rate: { label: 'calls/s', better: 'higher' } },

  async measure(lab, contender, database, variant) {
    const count = lab.size(10_000, 1_000) * (SHARE[contender.id] ?? 1);
    await contender.prepare(database, ['later']);
    if (contender === futureCall) {
      // Nobody runs calls here, so that scheduling alone is measured; but somebody must seem to, or ours has no one to
      // notify. The peers notify all the same.
      await database.client.query(
        `insert into future_call_instance (host, pid, poll_interval, handlers) values ('nowhere', 0, 10000, '{}')`,
      );
    }
    const scheduler = await lab.scheduler(contender, { url: database.url, handlers: ['later'] });
    const what = { handler: 'later', inFlight: IN_FLIGHT, delay: variant === NOW ? 0 : 86_400_000 };
    await scheduler.flood({ ...what, count: count / 10 });
    const milliseconds = await scheduler.flood({ ...what, count });
    return { rate: (count / milliseconds) * 1_000 };
  },

  goals(results) {
    return [TOMORROW, NOW].flatMap((variant) => {
      const rate = (contender) => results(contender.id, variant)?.rate;
      return [
        atLeast(
          `${variant}: ours / graphile-worker's addJob`,
          2.5,
          '×',
          ratio(rate(futureCall), rate(graphileWorker)),
        ),
        atLeast(`${variant}: ours / a bare INSERT`, 0.75, '×', ratio(rate(futureCall), rate(bareInsert))),
      ];
    });
  },
  plot: { metric: 'rate' },
};
