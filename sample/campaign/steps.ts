import type { CalendarDelay } from './pace.js';

/** The mails of the campaign, and how long after signing up each of them goes out. */
export const STEPS: readonly { after: CalendarDelay; subject: string }[] = [
  { after: { days: 1 }, subject: 'Your first day' },
  { after: { weeks: 1 }, subject: 'One week in' },
  { after: { months: 1 }, subject: 'A month already!' },
];
