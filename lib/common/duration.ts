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

const ONLY_OF_DELAYS = `Months and years, which have no fixed length, are units of a call's delay alone`;

/** Reads a delay. Throws `RangeError` with a message for the user, which names the delay. */
export function parseDelay(value: unknown): ParsedDelay {
  let parsed: ParsedDelay;
  try {
    parsed = parse(value, true);
  } catch (error) {
    throw new RangeError(`delay: ${(error as RangeError).message}`);
  }
  if (parsed.months < 0) throw negative(value, MONTHS);
  if (parsed.milliseconds < 0) throw negative(value, MILLISECONDS);
  return parsed;
}

/** Reads a duration, in milliseconds. Throws `RangeError` with a message for the user, who knows what it is of. */
export function parseDuration(value: unknown): number {
  return parse(value, false).milliseconds;
}

/** Months have no fixed length, so nothing is taken off them but months and years, and no number of days makes up for them. */
function negative(value: unknown, group: object): RangeError {
  const amounts = typeof value === 'object' && value !== null ? Object.entries(value) : [];
  const wrong = amounts.filter(([unit, amount]) => Object.hasOwn(group, unit) && (amount as number) < 0);
  const which = wrong.map(([unit, amount]) => `, and ${unit} is ${String(amount)}`).join('');
  return new RangeError(`A delay cannot be negative, but it is ${show(value)}${which}.`);
}

function parse(value: unknown, calendar: boolean): ParsedDelay {
  if (typeof value === 'number') return { months: 0, milliseconds: finite(value, value) };
  if (typeof value === 'string') return { months: 0, milliseconds: parseText(value, calendar) };
  if (typeof value === 'object' && value !== null && isPlain(value)) return parseUnits(value, calendar);
  throw new RangeError(`${show(value)} is not a length of time. ${HINT}.`);
}

/** Without a prototype, too: so come the arguments of a GraphQL resolver. Or of another realm (`vm`, Jest). */
function isPlain(value: object): boolean {
  const prototype = Object.getPrototypeOf(value) as object | null;
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}

function parseText(text: string, calendar: boolean): number {
  // ms() throws for an empty or very long string, and returns undefined for what it cannot read.
  const parsed: unknown = text.length > 0 && text.length <= 100 ? ms(text as ms.StringValue) : undefined;
  if (typeof parsed === 'number') return finite(parsed, text);
  const months = /^\s*(\d+)\s*mo(?:s|n|nth|nths)?\.?\s*$/i.exec(text)?.[1];
  const hint = months === undefined ? HINT : monthsHint(Number(months), calendar);
  throw new RangeError(`${show(text)} is not a length of time. ${hint}.`);
}

function monthsHint(months: number, calendar: boolean): string {
  return calendar
    ? `A month is the calendar's: use { months: ${months} }`
    : `${ONLY_OF_DELAYS}: use '${months * 30}d'`;
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
      const why = Object.hasOwn(MONTHS, unit) ? ` ${ONLY_OF_DELAYS}.` : '';
      throw new RangeError(`"${unit}" is not a unit of time here. The units are ${units}.${why}`);
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
