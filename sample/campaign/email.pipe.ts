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
    const given = value === undefined ? 'Nothing' : JSON.stringify(value).slice(0, LONGEST);
    throw new BadRequestException(
      `${given} is no e-mail address. An example of one: { "email": "ada@example.com" }`,
    );
  }
}
