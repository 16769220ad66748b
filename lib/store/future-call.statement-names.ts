import { Logger } from '@nestjs/common';
import { monotonic } from '../common/timers.js';

/** SQLSTATE "feature not supported", and who in PostgreSQL says that a plan's result has another type now. */
const NOT_SUPPORTED = '0A000';
const REVALIDATION = 'RevalidateCachedQuery';

/** After so many new generations within so many milliseconds, names are given up. */
const MOST_GENERATIONS = 3;
const WITHIN = 60_000;

/**
 * The names of prepared statements. When somebody changes the type of a column, PostgreSQL refuses every statement that
 * was prepared before and returns it, for ever and on every connection, and takes the same text under another name: so a
 * name has a generation.
 */
export class FutureCallStatementNames {
  private readonly logger = new Logger('FutureCall');
  private generation = 0;
  private readonly raisedAt: number[] = [];
  private isGivenUp = false;
  private readonly ofGeneration = new Map<string, string>();

  /** What a statement of this name is prepared as. Undefined: it is not. */
  present(name: string | undefined): string | undefined {
    if (this.generation === 0 || name === undefined) return name;
    if (this.isGivenUp) return undefined;
    let present = this.ofGeneration.get(name);
    if (present === undefined) this.ofGeneration.set(name, (present = `${name}_${this.generation}`));
    return present;
  }

  /**
   * Whether this error of a statement says that its plan is of no use any more: under the present name it works again.
   * It has done nothing.
   *
   * @param used what the statement was prepared as
   */
  isOutdated(error: unknown, name: string | undefined, used: string | undefined): boolean {
    if (used === undefined || !isRefusedPlan(error)) return false;
    // Of several that are on their way, the first one raises it.
    if (this.present(name) === used) this.raise();
    return true;
  }

  private raise(): void {
    this.generation++;
    this.ofGeneration.clear();
    const now = monotonic();
    this.raisedAt.push(now);
    if (this.raisedAt.length < MOST_GENERATIONS) return;
    if (now - this.raisedAt.shift()! > WITHIN) return;
    this.isGivenUp = true;
    this.logger.warn(
      `The types of our tables' columns change again and again, and PostgreSQL refuses prepared statements for it: ` +
        `from now on this process prepares none, which is slower. Restart it when the tables stay as they are.`,
    );
  }
}

/** One for all connections of this process: what has happened on one of them will happen on the others. */
export const statementNames = new FutureCallStatementNames();

function isRefusedPlan(error: unknown): boolean {
  // TypeORM wraps it, and copies what the driver's error says. The message is in the server's language.
  const { code, routine } = (error ?? {}) as { code?: unknown; routine?: unknown };
  return code === NOT_SUPPORTED && routine === REVALIDATION;
}
