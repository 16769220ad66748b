import { setTimeout as sleep } from 'node:timers/promises';

/** How long to wait for what should come at once, in milliseconds: giving up late costs nothing. */
export const PATIENCE = 90_000;

/**
 * Asks again and again until the answer is there: for what gives no signal, such as a row that another process writes.
 * Undefined, null and false are no answer; giving up only makes a failure readable.
 */
export async function until<T>(
  ask: () => Promise<T | undefined | null | false>,
  what: string,
  timeout = PATIENCE,
): Promise<T> {
  const end = performance.now() + timeout;
  for (;;) {
    const answer = await ask();
    if (answer !== undefined && answer !== null && answer !== false) return answer;
    if (performance.now() > end) throw new Error(`Not within ${timeout} ms: ${what}`);
    await sleep(20);
  }
}
