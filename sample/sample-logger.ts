import { ConsoleLogger } from '@nestjs/common';

const BOOT = new Set([
  'NestFactory',
  'InstanceLoader',
  'RoutesResolver',
  'RouterExplorer',
  'NestApplication',
]);

/** Leaves out what Nest says while it boots: here the mails are the story, told by several processes. */
export class SampleLogger extends ConsoleLogger {
  override log(message: unknown, ...rest: unknown[]): void {
    if (!BOOT.has(String(rest.at(-1)))) super.log(message, ...rest);
  }
}
