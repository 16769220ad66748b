import ms from 'ms';
import { show } from './show.js';

/** Units of fixed length. A day is a day of UTC: 24 hours. Fractions are allowed. */
export interface DurationObject {
  weeks?: number;
  days?: number;
  hours?: number;
  minutes?: number;
  seconds?: number;
  milliseconds?: number;
}

/** A length of time: milliseconds, a string as the `ms` library reads it (`'90m'`, `'2 days'`), or units. */
export type Duration = number | string | DurationObject;

/** As `DurationObject`, and the two units that only a calendar can measure. They take whole numbers. */
export interface DelayObject extends DurationObject {
  years?: number;
  months?: number;
}

/** How long from now: a duration, or one in calendar units (`{ months: 1 }`). */
export type Delay = number | string | DelayObject;

/** A delay in the two units that PostgreSQL has to tell apart. */
export interface ParsedDelay {
  months: number;
  milliseconds: number;
}

/** The longest wait between two attempts, in milliseconds: a year. */
export const LONGEST_BACKOFF = 366 * 86_400_000;

const MILLISECONDS = {
  weeks: 604_800_000,
  days: 86_400_000,
  hours: 3_600_000,
  minutes: 60_000,
  seconds: 1_000,
  milliseconds: 1,
} as const satisfies Record<keyof DurationObject, number>;

const MONTHS = { years: 12, months: 1 } as const;

const HINT = `Use milliseconds (90_000), a string such as '90s', '15m', '2h' or '7d', or units such as { hours: 2 }`;

/** Reads a delay. Throws `RangeError` with a message for the user. */
export function parseDelay(value: unknown): ParsedDelay {
  const parsed = parse(value, true);
  if (parsed.months < 0 || parsed.milliseconds < 0) {
    throw new RangeError(`A delay cannot be negative, but it is ${show(value)}.`);
  }
  return parsed;
}

/** Reads a duration, in milliseconds. Throws `RangeError` with a message for the user. */
export function parseDuration(value: unknown): number {
  return parse(value, false).milliseconds;
}

function parse(value: unknown, calendar: boolean): ParsedDelay {
  if (typeof value === 'number') return { months: 0, milliseconds: finite(value, value) };
  if (typeof value === 'string') return { months: 0, milliseconds: parseText(value) };
  if (typeof value === 'object' && value !== null && isPlain(value)) return parseUnits(value, calendar);
  throw new RangeError(`${show(value)} is not a length of time. ${HINT}.`);
}

/** Without a prototype, too: so come the arguments of a GraphQL resolver. */
function isPlain(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

function parseText(text: string): number {
  // ms() throws for an empty or very long string, and returns undefined for what it cannot read.
  const parsed: unknown = text.length > 0 && text.length <= 100 ? ms(text as ms.StringValue) : undefined;
  if (typeof parsed !== 'number') throw new RangeError(`${show(text)} is not a length of time. ${HINT}.`);
  return finite(parsed, text);
}

function parseUnits(value: object, calendar: boolean): ParsedDelay {
  const entries = Object.entries(value).filter(([, amount]) => amount !== undefined);
  if (entries.length === 0) throw new RangeError(`${show(value)} names no unit. ${HINT}.`);
  const parsed = { months: 0, milliseconds: 0 };
  for (const [unit, amount] of entries) {
    const number = finite(amount, value);
    if (Object.hasOwn(MILLISECONDS, unit)) {
      parsed.milliseconds += number * MILLISECONDS[unit as keyof typeof MILLISECONDS];
    } else if (calendar && Object.hasOwn(MONTHS, unit)) {
      if (!Number.isInteger(number)) {
        throw new RangeError(
          `${unit} must be a whole number, but it is ${show(amount)}. Use weeks or days for parts.`,
        );
      }
      parsed.months += number * MONTHS[unit as keyof typeof MONTHS];
    } else {
      const units = [...(calendar ? Object.keys(MONTHS) : []), ...Object.keys(MILLISECONDS)].join(', ');
      throw new RangeError(`"${unit}" is not a unit of time here. The units are ${units}.`);
    }
  }
  // Units of both signs may add up to NaN.
  finite(parsed.milliseconds, value);
  return parsed;
}

function finite(amount: unknown, whole: unknown): number {
  if (typeof amount === 'number' && Number.isFinite(amount)) return amount;
  throw new RangeError(
    `${show(whole)} is not a length of time: ${show(amount)} is not a finite number. ${HINT}.`,
  );
}
