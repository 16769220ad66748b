import ms, { type StringValue } from 'ms';

/** What the environment decides. */
export const settings = {
  /** Where the database is. */
  databaseUrl: databaseUrl(),
  /** Where to listen. 0 takes any free port. */
  port: wholeNumber('PORT', 3000, 0, 65_535),
  /** How long a day of the campaign lasts, in milliseconds: `DAY=24h` is real time. */
  day: duration('DAY', '2s'),
  /** Which process of several this is, counted from 1. */
  instance: wholeNumber('INSTANCE', 1, 1, 1_000),
};

function databaseUrl(): string {
  const url = process.env.DATABASE_URL;
  return (
    url || refuse('DATABASE_URL is not set. Start the sample with "npm start", which brings a database.')
  );
}

function wholeNumber(name: string, byDefault: number, min: number, max: number): number {
  const text = process.env[name] || String(byDefault);
  const value = Number(text);
  if (!Number.isInteger(value) || value < min || value > max) {
    refuse(`${name}=${text} does not work. Use a whole number from ${min} to ${max}.`);
  }
  return value;
}

function duration(name: string, byDefault: StringValue): number {
  const text = process.env[name] || byDefault;
  const value = ms(text as StringValue);
  // Not `value <= 0`: what is no duration at all is NaN or undefined.
  if (!(value > 0))
    refuse(`${name}=${text} does not work. Use a duration such as ${name}=2s or ${name}=24h.`);
  return value;
}

/** Whoever typed it is helped by the sentence, and not by a stack. */
function refuse(problem: string): never {
  console.error(problem);
  process.exit(1);
}
