import { Body, Controller, Delete, Param, Post } from '@nestjs/common';
import { CampaignService, type ScheduledMail } from './campaign.service.js';
import { EmailPipe } from './email.pipe.js';

@Controller('signup')
export class CampaignController {
  constructor(private readonly campaign: CampaignService) {}

  @Post()
  signUp(@Body('email', EmailPipe) email: string): Promise<ScheduledMail[]> {
    return this.campaign.signUp(email);
  }

  @Delete(':email')
  async leave(@Param('email', EmailPipe) email: string): Promise<{ cancelled: number }> {
    return { cancelled: await this.campaign.leave(email) };
  }
}
