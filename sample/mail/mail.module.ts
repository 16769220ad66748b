import { Module } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import { Mailer } from './mailer.js';
import { OutboxController } from './outbox.controller.js';
import { SendMail } from './send-mail.js';
import { SentMail } from './sent-mail.entity.js';

@Module({
  imports: [TypeOrmModule.forFeature([SentMail])],
  controllers: [OutboxController],
  providers: [Mailer, SendMail],
})
export class MailModule {}
