import { Injectable } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import { Repository } from 'typeorm';
import type { Mail } from './mail.js';
import { SentMail } from './sent-mail.entity.js';

/** Stands in for a mail server: what it is given counts as sent, and is kept. */
@Injectable()
export class Mailer {
  constructor(@InjectRepository(SentMail) private readonly sentMails: Repository<SentMail>) {}

  send({ to, subject }: Mail): Promise<SentMail> {
    return this.sentMails.save({ to, subject });
  }
}
