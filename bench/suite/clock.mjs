/** Milliseconds of the machine's monotonic clock: the same one in every process. */
export const now = () => Number(process.hrtime.bigint()) / 1e6;

/** What to add to `now()` to get milliseconds since 1970, finer than `Date.now()` tells. */
export function wallOffset() {
  const start = Date.now();
  let tick;
  do tick = Date.now();
  while (tick === start);
  return tick - now();
}
