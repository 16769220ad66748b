import { Injectable, Logger } from '@nestjs/common';
import ms from 'ms';
import { FutureCallService } from 'nestjs-future-call';
import { DataSource } from 'typeorm';
import { SendMail } from '../mail/send-mail.js';
import { Pace } from './pace.js';
import { STEPS } from './steps.js';
import { Subscriber } from './subscriber.entity.js';

export interface ScheduledMail {
  to: string;
  subject: string;
  dueAt: Date;
}

@Injectable()
export class CampaignService {
  private readonly logger = new Logger(CampaignService.name);

  constructor(
    private readonly dataSource: DataSource,
    private readonly futureCalls: FutureCallService,
    private readonly pace: Pace,
  ) {}

  /** Schedules the campaign's mails, instead of those that are still to come from an earlier signup. */
  async signUp(email: string): Promise<ScheduledMail[]> {
    // With `manager`, cancelling and scheduling are part of the transaction: all of it happens, or nothing.
    const mails = await this.dataSource.transaction(async (manager) => {
      // First, because it locks the subscriber's row: two signups of one address take turns.
      await manager.upsert(Subscriber, { email, signedUpAt: new Date() }, ['email']);
      await this.futureCalls.cancel(email, { manager });

      const scheduled: ScheduledMail[] = [];
      for (const { after, subject } of STEPS) {
        const mail = { to: email, subject };
        const options = { identifier: email, manager };
        const { dueAt } = await this.futureCalls.callWithDelay(SendMail, mail, this.pace.of(after), options);
        scheduled.push({ ...mail, dueAt });
      }
      return scheduled;
    });
    const toCome = mails.map(({ subject, dueAt }) => `"${subject}" in ${ms(dueAt.getTime() - Date.now())}`);
    this.logger.log(`${email} signed up. To come: ${toCome.join(', ')}`);
    return mails;
  }

  /** Cancels what is still to come. Returns how many mails that were. */
  async leave(email: string): Promise<number> {
    const cancelled = await this.dataSource.transaction(async (manager) => {
      await manager.delete(Subscriber, { email });
      return this.futureCalls.cancel(email, { manager });
    });
    this.logger.log(`${email} left. Mails cancelled: ${cancelled}`);
    return cancelled;
  }
}
