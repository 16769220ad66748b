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
let lastEnd = 0;
/** @type {[number, number][]} */
const samples = [];
let cpuAtFirst = process.cpuUsage();
let running;

/**
 * @param {{ work?: number, every?: number, record?: boolean, prompt?: boolean }} options `work`: milliseconds that it
 * takes, in one call of so many (`every`); `record`: keep when it started; `prompt`: tell of each start at once, as one
 * must who is to be killed
 */
function handler({ work = 0, every = 1, record = false, prompt = false }) {
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
    if (prompt) tell();
    return work > 0 && count % every === 0 ? sleep(work).then(ended) : undefined;
  };
}

function ended() {
  lastEnd = performance.now();
}

function tell() {
  if (count === told) return;
  told = count;
  process.send?.({ event: 'count', value: count });
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
    const own = now() - performance.now();
    return { count, firstAt, lastAt: last + own, lastEndAt: lastEnd + own, samples, cpu: user + system };
  },

  memory: () => process.memoryUsage.rss(),

  stop: () => running?.stop(),
});

setInterval(tell, TELL_EVERY).unref();
