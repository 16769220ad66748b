import { Logger } from '@nestjs/common';
import { errorText } from '../common/describe-error.js';
import { counted } from '../common/text.js';
import { withDeadline } from '../common/waiting.js';
import type { EngineParts, EngineSurroundings } from './future-call.engine-parts.js';
import { DEFAULT_BACKOFF } from './future-call.retry-policy.js';

/** How long a handler may take to end once its signal is aborted, in milliseconds. */
const ABORT_GRACE = 500;
/** How long the last statements of a drain may take, in milliseconds: the database may be away. */
const LAST_WORDS = 3_000;

/** The end of an engine: it stops claiming, lets what runs finish, and leaves nothing behind. */
export class FutureCallDrain {
  private readonly logger = new Logger('FutureCall');

  constructor(
    private readonly parts: EngineParts,
    private readonly around: EngineSurroundings,
  ) {}

  /**
   * Answers with how many calls it had to interrupt.
   *
   * @param lastStatement what to ask before the session ends
   */
  async run(lastStatement: () => Promise<void>): Promise<number> {
    const { executor, poller, slots, releaser, completer, pruner, rescuer, session } = this.parts;
    executor.stop();
    await poller.stop();
    await releaser.release(slots.takeQueued());
    await this.finishRunning();
    await withDeadline(LAST_WORDS, (signal) => completer.settled(signal));
    completer.stop();
    // Before the rest: what has not started is not interrupted.
    await releaser.finish();
    const interrupted = await this.interruptRest();
    await pruner.stop();
    await rescuer.stop();
    await withDeadline(LAST_WORDS, () => lastStatement());
    await session.stop();
    return interrupted;
  }

  private async finishRunning(): Promise<void> {
    const { executor } = this.parts;
    const { shutdownTimeout } = this.around.options;
    if (executor.running > 0) {
      this.logger.log(
        `Waiting for ${counted(executor.running, 'call')} to finish, at most ${shutdownTimeout} ms.`,
      );
    }
    await withDeadline(shutdownTimeout, () => executor.idle());
    if (executor.running === 0) return;
    executor.abort(new Error(`This instance stops, and shutdownTimeout (${shutdownTimeout} ms) is over.`));
    await withDeadline(ABORT_GRACE, () => executor.idle());
  }

  private async interruptRest(): Promise<number> {
    const { session, instances, executor, rescuer } = this.parts;
    if (!session.isOpen || executor.knownCalls().length === 0) return 0;
    try {
      const calls = await instances.interruptOwn(
        'Its instance stopped before the call had finished.',
        DEFAULT_BACKOFF,
      );
      if (calls.length > 0) {
        this.logger.warn(`The drain is over. ${rescuer.interrupted(session.instance.id, calls)}`);
      }
      return calls.length;
    } catch (error) {
      this.logger.warn(
        `Marking what still runs as interrupted failed; another instance will do it: ${errorText(error)}`,
      );
      return 0;
    }
  }
}
