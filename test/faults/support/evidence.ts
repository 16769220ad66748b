import type { AppProcess } from '../../support/processes.js';
import type { PostgresProxy } from '../../support/proxy.js';
import { until } from '../../support/until.js';
import type { Ended } from './world.js';

export const LOST = /Instance \d+ lost its session, and reconnects/;
export const BACK = /Instance \d+ has its session back/;
export const NEW = /This process goes on as instance \d+/;

/** The statement of a look, and the first one of a rescue. */
export const LOOK = /^future_call_look$/;
export const RESCUE = /^select pg_try_advisory_xact_lock\(/;

/**
 * Until whoever is behind the proxy has been answered so many more statements like that. A machine that is slow, or
 * stands still, makes this longer, and nothing else of it.
 */
export function untilAnswered(proxy: PostgresProxy, statement: RegExp, more: number): Promise<unknown> {
  const enough = answersTo(proxy, statement) + more;
  return until(
    async () => answersTo(proxy, statement) >= enough,
    `${more} more answers to ${statement.source}`,
  );
}

/** How many statements like that have been answered. */
export function answersTo({ answered }: Pick<PostgresProxy, 'answered'>, statement: RegExp): number {
  return answered.filter((text) => statement.test(text)).length;
}

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
