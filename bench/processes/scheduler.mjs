// A measured process that schedules calls.
import { setTimeout as sleep } from 'node:timers/promises';
import { contenderById } from '../contenders/index.mjs';
import { now } from '../suite/clock.mjs';
import { serve } from './serve.mjs';

let scheduler;

serve({
  async connect({ contender, url, handlers }) {
    scheduler = await contenderById(contender).connect({ url, handlers });
  },

  async paced({ handler, count, rate }) {
    const start = now();
    const sent = [];
    for (let i = 0; i < count; i++) {
      // Around the pace, not on it: not in step with anybody's timers.
      const at = start + ((i + Math.random()) * 1_000) / rate;
      await sleep(Math.max(0, at - now()));
      sent.push(scheduler.schedule(handler, { at: now() }, 0));
    }
    await Promise.all(sent);
  },

  async flood({ handler, count, inFlight, delay }) {
    let left = count;
    const start = now();
    await Promise.all(
      Array.from({ length: inFlight }, async () => {
        while (left-- > 0) await scheduler.schedule(handler, { at: 0 }, delay);
      }),
    );
    return now() - start;
  },

  async bulk({ handler, count, size }) {
    if (!scheduler.scheduleMany) return undefined;
    const all = Array.from({ length: size }, () => ({ at: 0 }));
    const start = now();
    for (let done = 0; done < count; done += size) await scheduler.scheduleMany(handler, all);
    return now() - start;
  },

  close: () => scheduler?.close(),
});
