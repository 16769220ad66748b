import { Injectable, Logger } from '@nestjs/common';
import { FutureCallEntity } from 'nestjs-future-call';
import { DataSource } from 'typeorm';
import { CampaignService } from './campaign.service.js';

const EMAIL = 'demo@example.com';

/** Somebody for whom mails are to come, so that there is something to see without a single request. */
@Injectable()
export class DemoUser {
  private readonly logger = new Logger(DemoUser.name);

  constructor(
    private readonly dataSource: DataSource,
    private readonly campaign: CampaignService,
  ) {}

  /** Signs the demo user up, unless a run before this one did and was stopped halfway. */
  async signUp(): Promise<void> {
    const upcoming = await this.dataSource.manager.countBy(FutureCallEntity, { identifier: EMAIL });
    if (upcoming === 0) await this.campaign.signUp(EMAIL);
    else this.logger.log(`${EMAIL} signed up before. Mails still to come: ${upcoming}`);
  }
}
