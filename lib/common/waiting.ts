import { clearTimeout, setTimeout } from './timers.js';

/**
 * Waits for `work`, but not longer than that. Keeps the process alive meanwhile: with the database away nothing else
 * may, and who waits for the end would never hear of it.
 */
export async function withDeadline(
  milliseconds: number,
  work: (signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const over = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const deadline = new Promise<void>((resolve) => (timer = setTimeout(resolve, milliseconds)));
  try {
    await Promise.race([work(over.signal), deadline]);
  } finally {
    clearTimeout(timer);
    over.abort();
  }
}

/** What is promised; undefined once the signal is aborted. Who gave up hears of no error any more. */
export async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T | undefined> {
  promise.catch(() => {});
  if (signal.aborted) return undefined;
  let stop!: () => void;
  const aborted = new Promise<undefined>((resolve) => (stop = () => resolve(undefined)));
  signal.addEventListener('abort', stop);
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener('abort', stop);
  }
}

/** What happens again and again, for whoever waits for the next time. */
export class Pulse {
  private expected = expect();

  get next(): Promise<void> {
    return this.expected.promise;
  }

  beat(): void {
    const { resolve } = this.expected;
    this.expected = expect();
    resolve();
  }
}

function expect() {
  let resolve!: () => void;
  const promise = new Promise<void>((done) => (resolve = done));
  return { promise, resolve };
}

export function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof (value as PromiseLike<unknown> | null | undefined)?.then === 'function';
}
