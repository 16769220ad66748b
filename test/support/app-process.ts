/** The app's end of what `processes.ts` does in the test. */
import type { Type } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import type { AppMessage } from './processes.js';

export function tell(type: string, fields: Record<string, unknown> = {}): void {
  process.send?.({ type, ...fields });
}

export function onMessage(type: string, handle: (message: AppMessage) => unknown): void {
  process.on('message', (message: AppMessage) => {
    if (message.type === type) void handle(message);
  });
  // Listening must not keep the app alive: whether it ends by itself is what tests look at.
  process.channel?.unref();
}

/**
 * Starts a Nest app as a user's main.ts does. Tells `ready`; closes on the message `close` and on SIGTERM, and
 * then has to end by itself.
 */
export async function boot(module: Type) {
  const app = await NestFactory.createApplicationContext(module, { logger: ['error', 'warn', 'log'] });
  app.enableShutdownHooks();
  onMessage('close', async () => {
    await app.close();
    tell('closed');
  });
  tell('ready', { pid: process.pid });
  return app;
}

// The test has died: nobody else will end this process.
process.once('disconnect', () => process.exit(1));
