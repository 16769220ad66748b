import { Module } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import { FutureCallModule } from 'nestjs-future-call';
import { CampaignModule } from './campaign/campaign.module.js';
import { MailModule } from './mail/mail.module.js';
import { CreateSampleTables1795000000000 } from './migrations/1795000000000-create-sample-tables.js';
import { PageModule } from './page/page.module.js';
import { settings } from './settings.js';

@Module({
  imports: [
    TypeOrmModule.forRoot({
      type: 'postgres',
      url: settings.databaseUrl,
      autoLoadEntities: true,
      // For the sample's own tables. The library makes its own.
      migrations: [CreateSampleTables1795000000000],
      migrationsRun: true,
    }),
    FutureCallModule.forRoot(),
    MailModule,
    CampaignModule,
    PageModule,
  ],
})
export class AppModule {}
