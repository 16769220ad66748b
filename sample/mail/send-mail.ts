import { Logger } from '@nestjs/common';
import { FutureCall, type FutureCallContext, type FutureCallHandler } from 'nestjs-future-call';
import type { Mail } from './mail.js';
import { Mailer } from './mailer.js';

@FutureCall('sendMail')
export class SendMail implements FutureCallHandler<Mail> {
  private readonly logger = new Logger(SendMail.name);

  constructor(private readonly mailer: Mailer) {}

  async invoke(mail: Mail, call: FutureCallContext): Promise<void> {
    const { sentAt } = await this.mailer.send(mail);
    // Both times are the database's, so the difference is honest.
    const late = sentAt.getTime() - call.dueAt.getTime();
    this.logger.log(`Sent "${mail.subject}" to ${mail.to}, ${late} ms after it was due`);
  }
}
