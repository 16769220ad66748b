import { BadRequestException, Injectable, type PipeTransform } from '@nestjs/common';

// What <input type="email"> accepts, with a dot in the domain.
const EMAIL = /^[\w.!#$%&'*+/=?^`{|}~-]+@[a-z\d-]+(\.[a-z\d-]+)+$/;
const LONGEST = 254;

/** Lets e-mail addresses through, in one spelling: the address is the identifier to cancel by. */
@Injectable()
export class EmailPipe implements PipeTransform<unknown, string> {
  transform(value: unknown): string {
    const email = typeof value === 'string' ? value.trim().toLowerCase() : '';
    if (email.length <= LONGEST && EMAIL.test(email)) return email;
    const problem = value === undefined ? '"email" is missing.' : `${show(value)} is no e-mail address.`;
    throw new BadRequestException(`${problem} Send one such as ada@example.com.`);
  }
}

function show(value: unknown): string {
  return JSON.stringify(value).slice(0, LONGEST);
}
