import { Module } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import { CampaignController } from './campaign.controller.js';
import { CampaignService } from './campaign.service.js';
import { DemoUser } from './demo-user.js';
import { Pace } from './pace.js';
import { Subscriber } from './subscriber.entity.js';

@Module({
  imports: [TypeOrmModule.forFeature([Subscriber])],
  controllers: [CampaignController],
  providers: [CampaignService, DemoUser, Pace],
})
export class CampaignModule {}
