import { Controller, Get } from '@nestjs/common';
import { FutureCallEntity } from 'nestjs-future-call';
import { DataSource } from 'typeorm';
import type { Mail } from './mail.js';
import { SentMail } from './sent-mail.entity.js';

const AT_MOST = 1_000;

@Controller('outbox')
export class OutboxController {
  constructor(private readonly dataSource: DataSource) {}

  @Get()
  read() {
    // Both reads see one moment, so that no mail shows up twice while it is being sent.
    return this.dataSource.transaction('REPEATABLE READ', async (manager) => {
      const sent = await manager.find(SentMail, { order: { sentAt: 'DESC', id: 'DESC' }, take: AT_MOST });
      // What is to come stands in the library's table `future_call`: yours to read.
      const upcoming = await manager.find(FutureCallEntity, {
        where: { name: 'sendMail' },
        order: { dueAt: 'ASC', id: 'ASC' },
        take: AT_MOST,
      });
      return {
        sent: sent.map(({ to, subject, sentAt }) => ({ to, subject, sentAt })),
        upcoming: upcoming.map(({ data, dueAt }) => {
          const { to, subject } = data as Mail;
          return { to, subject, dueAt };
        }),
      };
    });
  }
}
