import {
  FutureCall,
  type FutureCallControl,
  type FutureCallHandler,
  type RunDueResult,
} from '../../lib/index.js';

@FutureCall('remind')
class Remind implements FutureCallHandler<string> {
  invoke(_data: string) {}
}

class NoHandler {}

declare const control: FutureCallControl;

export async function compiles() {
  await control.start();
  await control.stop();
  const result: RunDueResult = await control.runDue();
  await control.runDue({});
  await control.runDue({ handlers: [Remind, 'anything'], limit: 5, for: '45s' });
  await control.runDue({ handlers: [] as const, for: { seconds: 45 } });
  const sum: number = result.started + result.completed + result.failed + result.retried + result.interrupted;
  const next: Date | null = result.nextDueAt;
  return [sum, next];
}

export function doesNotCompile() {
  return [
    // @ts-expect-error A class that is no handler.
    () => control.runDue({ handlers: [NoHandler] }),
    // @ts-expect-error One alone is no list.
    () => control.runDue({ handlers: Remind }),
    // @ts-expect-error A month is no length of time.
    () => control.runDue({ for: { months: 1 } }),
    // @ts-expect-error There is no such option.
    () => control.runDue({ until: new Date() }),
  ];
}
