import { Injectable } from '@nestjs/common';

/** What a statement says for the time: expressions of SQL. All that is stored or compared is the database's clock. */
export interface SqlTime {
  /** When the statement's transaction began. The same all through it. */
  readonly now: string;
  /** The moment in which it is evaluated. */
  readonly moment: string;
}

/**
 * The clock by which calls are due, kept and counted: the database's. Statements take their time from here and write
 * every time themselves, so that a test which moves it moves the whole app, and no row of it.
 */
@Injectable()
export class FutureCallClock implements SqlTime {
  #offset = 0;

  get now(): string {
    return this.moved('now()');
  }

  get moment(): string {
    return this.moved('clock_timestamp()');
  }

  /** How far it was moved, in milliseconds. */
  get offset(): number {
    return this.#offset;
  }

  /** Moves it, from where it is. What has been built for the time before is built anew; a timer that is set stays. */
  moveBy(milliseconds: number): void {
    this.#offset += milliseconds;
  }

  private moved(time: string): string {
    return this.#offset === 0 ? time : `(${time} + ${this.#offset} * interval '1 millisecond')`;
  }
}

/** What `build` makes of the time: made once, and again when the clock was moved. */
export function perTime<T>(clock: FutureCallClock, build: (time: SqlTime) => T): () => T {
  let built: { readonly offset: number; readonly value: T } | undefined;
  return () => {
    if (built?.offset !== clock.offset) built = { offset: clock.offset, value: build(clock) };
    return built.value;
  };
}
