import { Injectable } from '@nestjs/common';
import type { RunDueOptions, RunDueResult } from '../contract/future-call.control-types.js';
import { FutureCallRunner } from '../engine/future-call.runner.js';
import { readRunDue } from './future-call.control-input.js';
import { FutureCallRegistry } from '../handlers/future-call.registry.js';

/**
 * For who operates future calls: scripts, serverless entry points, tests. Inject it anywhere: the module is global. What an
 * app itself asks for is in `FutureCallService`.
 */
@Injectable()
export class FutureCallControl {
  constructor(
    private readonly runner: FutureCallRunner,
    private readonly registry: FutureCallRegistry,
  ) {}

  /**
   * Begins to run calls, as an app with `execute: true` does when it has booted: this process becomes an instance, until
   * `stop()` is called or the app closes. Does nothing when it is one already.
   *
   * @throws FutureCallOptionsError with `execute: false`; FutureCallSessionError when the app has not booted or is closing,
   * or the session cannot be had; what connecting throws. It may be called again then.
   */
  async start(): Promise<void> {
    this.runner.requireMayRun('start');
    await this.runner.start();
  }

  /**
   * Stops running calls, as an app does that closes: claims nothing any more, waits up to `shutdownTimeout` for what runs,
   * and marks the rest as `interrupted`. Ends `runDue()` too. Scheduling goes on; `start()` begins anew. Can be called
   * twice, and when nothing runs. A handler that awaits it waits for itself.
   */
  async stop(): Promise<void> {
    await this.runner.stop();
  }

  /**
   * Runs what is due and what becomes due meanwhile, until nothing is due, `limit` calls have been started or `for` is
   * over, and waits for what runs as `stop()` does. With a dead instance around it stays until that one's calls have been
   * rescued: `rescueAfter` and half as long again. When there is nothing to do it costs one statement.
   *
   * It may be called again and again, and several times at once: they share the work, also with other processes, and each
   * has `concurrency` slots of its own. It needs a connection of the app's pool, one more inside of a transaction.
   *
   * @throws FutureCallOptionsError for a wrong option, and with `execute: false`; UnknownFutureCallError for a handler that
   * this process does not have; FutureCallSessionError when the app has not booted or is closing; what the database throws
   */
  async runDue(options: RunDueOptions = {}): Promise<RunDueResult> {
    this.runner.requireMayRun('runDue');
    return this.runner.runDue(readRunDue(options, this.registry));
  }
}
