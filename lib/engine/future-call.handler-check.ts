import { Logger } from '@nestjs/common';
import { errorText } from '../common/describe-error.js';
import { ToldReasons } from '../common/told-reasons.js';
import { quoted } from '../common/text.js';
import { isLockTimeout } from '../store/future-call.lock-wait.js';
import type { FutureCallInstanceStore } from '../store/future-call.instance-store.js';

/** Looks for calls that no instance has a handler for. */
export class FutureCallHandlerCheck {
  private readonly logger = new Logger('FutureCall');
  private readonly refusals = new ToldReasons();
  private told = '';

  /** Warns once for each change: while a deploy goes on, the old processes still have what the new ones lack. */
  async check(instances: FutureCallInstanceStore): Promise<void> {
    const names = await instances.namesWithoutHandler().catch((error: unknown) => this.failed(error));
    if (names === undefined) return;
    this.refusals.forget();
    const listed = names.map(quoted).join(', ');
    if (listed !== '' && listed !== this.told) {
      this.logger.warn(
        `Calls are pending that no running instance has a handler for: ${listed}. ` +
          `They stay until one has, or until they are cancelled.`,
      );
    }
    this.told = listed;
  }

  private failed(error: unknown): undefined {
    // No answer of the server: the session is lost, which is told elsewhere.
    if ((error as { severity?: unknown }).severity === undefined || !this.refusals.isNew(errorText(error)))
      return;
    // PostgreSQL does not say what it waited for.
    const where = isLockTimeout(error)
      ? '. Somebody has locked future_call or future_call_instance (pg_locks tells who)'
      : '';
    this.logger.warn(`Looking for calls that nobody has a handler for fails: ${errorText(error)}${where}`);
  }
}
