/** The earliest moment a `Date` can hold: what `-infinity` becomes. */
const EARLIEST = -8.64e15;

/**
 * Milliseconds since 1970 of a `timestamptz` as the server writes it with `DateStyle ISO` and `TimeZone UTC`:
 * `2026-01-31 09:00:00.5+00`. Reads ISO 8601 in UTC too. NaN when it is beyond what a `Date` holds.
 */
export function parseTimestamp(text: string): number {
  if (text.length >= 22 && text[4] === '-' && text.endsWith('+00')) {
    return Date.parse(`${text.slice(0, 10)}T${text.slice(11, -3)}Z`);
  }
  if (text.endsWith('Z')) return Date.parse(text);
  return text === '-infinity' ? EARLIEST : parseRare(text);
}

/** Years before 1 and after 9999, which ISO 8601 writes with a sign and six digits. */
function parseRare(text: string): number {
  const match = /^(\d+)-(\d\d-\d\d) (\S+)\+00( BC)?$/.exec(text);
  if (match === null) return NaN;
  const year = match[4] === undefined ? Number(match[1]) : 1 - Number(match[1]);
  const sign = year < 0 ? '-' : '+';
  return Date.parse(`${sign}${String(Math.abs(year)).padStart(6, '0')}-${match[2]}T${match[3]}Z`);
}
