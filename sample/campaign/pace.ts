import { Injectable } from '@nestjs/common';
import { settings } from '../settings.js';

const REAL_DAY = 24 * 60 * 60 * 1_000;

/** A distance on the calendar, as `callWithDelay` takes it. */
export interface CalendarDelay {
  days?: number;
  weeks?: number;
  months?: number;
}

/** How fast the campaign's calendar runs: nobody watches a demo for a month. */
@Injectable()
export class Pace {
  /** `{ months: 1 }` in real time, or as many short days as the month from now on has days. */
  of(delay: CalendarDelay) {
    if (settings.day === REAL_DAY) return delay;
    return { milliseconds: Math.round(daysAhead(delay, new Date()) * settings.day) };
  }
}

function daysAhead({ days = 0, weeks = 0, months = 0 }: CalendarDelay, from: Date): number {
  const [year, month, day] = [from.getUTCFullYear(), from.getUTCMonth() + months, from.getUTCDate()];
  // A month from 31 January is 28 or 29 February, as in PostgreSQL; day 0 is the last one of the month before.
  const lastDay = new Date(Date.UTC(year, month + 1, 0)).getUTCDate();
  const midnight = Date.UTC(year, month, Math.min(day, lastDay));
  return (midnight - Date.UTC(year, from.getUTCMonth(), day)) / REAL_DAY + 7 * weeks + days;
}
