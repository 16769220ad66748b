import 'reflect-metadata';
import { Logger } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { AppModule } from './app.module.js';
import { DemoUser } from './campaign/demo-user.js';
import { SampleLogger } from './sample-logger.js';
import { settings } from './settings.js';

const logger = new Logger('Sample');
const app = await NestFactory.create(AppModule, {
  logger: new SampleLogger({ prefix: `Process ${settings.instance}` }),
  // A page that is open in a browser would keep the server up.
  forceCloseConnections: true,
});

// On Ctrl-C no further mail is started, and those on their way are finished.
app.enableShutdownHooks();
// So too when the terminal was closed, which then cannot be written to,
for (const output of [process.stdout, process.stderr]) output.on('error', () => {});
// and when scripts/start.mjs was killed, after which nobody else would tell us to stop.
process.once('disconnect', () => process.kill(process.pid, 'SIGTERM'));
process.channel?.unref();

try {
  // Every process sends mails; only the first one answers requests.
  if (settings.instance === 1) {
    await app.listen(settings.port);
    logger.log(`Open http://localhost:${app.getHttpServer().address().port}`);
    await app.get(DemoUser).signUp();
  } else {
    await app.init();
  }
  // To whoever started this process and wants to know: scripts/start.mjs does, and may be gone by now.
  process.send?.('ready', () => {});
} catch (error) {
  if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error;
  logger.error(
    `Port ${settings.port} is taken. Stop what listens there, or choose another one: PORT=${settings.port + 1} npm start`,
  );
  process.exitCode = 1;
  await app.close();
}
