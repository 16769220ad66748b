import { setTimeout as wait } from 'node:timers/promises';

/** Waits that long, or until the signal is aborted. Resolves in both cases and never keeps a process alive. */
export async function sleep(milliseconds: number, signal: AbortSignal): Promise<void> {
  try {
    await wait(milliseconds, undefined, { signal, ref: false });
  } catch {
    // Aborted: whoever waits looks at the signal.
  }
}
