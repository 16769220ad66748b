import type { AppProcess } from '../../support/processes.js';
import type { Ended } from './world.js';

export const LOST = /Instance \d+ lost its session, and reconnects/;
export const BACK = /Instance \d+ has its session back/;
export const NEW = /This process was taken for dead and goes on as instance \d+/;

/** How many lines of what it has printed fit. */
export function lines({ output }: AppProcess, pattern: RegExp): number {
  return output.split('\n').filter((line) => pattern.test(line)).length;
}

/** How many messages of these types it has told. */
export function told({ messages }: AppProcess, ...types: string[]) {
  return messages.filter(({ type }) => types.includes(type));
}

/** How many have ended in which way, and in which attempt. */
export function tally(ended: readonly Ended[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { outcome, attempt } of ended) {
    const key = `${outcome} ${attempt}`;
    counts[key] = (counts[key] ?? 0) + 1;
  }
  return counts;
}
