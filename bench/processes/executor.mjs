// A measured process that runs calls.
import { setTimeout as sleep } from 'node:timers/promises';
import { contenderById } from '../contenders/index.mjs';
import { now } from '../suite/clock.mjs';
import { serve } from './serve.mjs';

/** How often the suite is told how many have started, in milliseconds. */
const TELL_EVERY = 5;

let count = 0;
let firstAt = 0;
let told = 0;
/** By this process' own clock, which is cheaper to read. */
let last = 0;
/** @type {[number, number][]} */
const samples = [];
let cpuAtFirst = process.cpuUsage();
let running;

/**
 * @param {{ work?: number, record?: boolean }} options `work`: milliseconds that it takes; `record`: keep when it
 * started
 */
function handler({ work = 0, record = false }) {
  return (data) => {
    count++;
    last = performance.now();
    if (record || count === 1) {
      const started = now();
      if (count === 1) {
        firstAt = started;
        cpuAtFirst = process.cpuUsage();
      }
      if (record) samples.push([data.at, started]);
    }
    return work > 0 ? sleep(work) : undefined;
  };
}

serve({
  async start({ contender, url, handlers, concurrency, options }) {
    running = await contenderById(contender).execute({
      url,
      handlers: Object.fromEntries(Object.entries(handlers).map(([name, what]) => [name, handler(what)])),
      concurrency,
      options,
    });
  },

  report() {
    const { user, system } = process.cpuUsage(cpuAtFirst);
    return { count, firstAt, lastAt: last + (now() - performance.now()), samples, cpu: user + system };
  },

  memory: () => process.memoryUsage.rss(),

  stop: () => running?.stop(),
});

setInterval(() => {
  if (count === told) return;
  told = count;
  process.send?.({ event: 'count', value: count });
}, TELL_EVERY).unref();
