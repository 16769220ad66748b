import { performance } from 'node:perf_hooks';
import * as timers from 'node:timers';
import * as promises from 'node:timers/promises';

// The timers and clocks of this process, as they are when this module is loaded. A test of the app may replace the global
// ones later (fake timers): a timer that is set on those never fires, and one that is set before and cleared after is
// dead for good. Nothing else in the library takes them from elsewhere.

export const { setTimeout, clearTimeout, setInterval, clearInterval, setImmediate } = timers;

/** Resolves in the next turn of the event loop. */
export const nextTurn: () => Promise<void> = promises.setImmediate;

const wait = promises.setTimeout;

/** Waits that long, or until the signal is aborted. Resolves in both cases and never keeps a process alive. */
export async function sleep(milliseconds: number, signal: AbortSignal): Promise<void> {
  try {
    await wait(milliseconds, undefined, { signal, ref: false });
  } catch {
    // Aborted: whoever waits looks at the signal.
  }
}

/** Milliseconds of a clock that only goes forward: for lengths of time. */
export const monotonic: () => number = performance.now.bind(performance);

/** Milliseconds since 1970, by this machine's clock. What is due is decided by the database's. */
export const wallClock: () => number = Date.now;
