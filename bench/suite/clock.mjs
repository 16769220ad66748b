/** Milliseconds of the machine's monotonic clock: the same one in every process. */
export const now = () => Number(process.hrtime.bigint()) / 1e6;

let offset;

/** Milliseconds since 1970, finer than `Date.now()` tells. */
export const wallNow = () => toWall(now());

/** A moment of `now()` in milliseconds since 1970. @param {number} monotonic */
export function toWall(monotonic) {
  offset ??= findOffset();
  return monotonic + offset;
}

function findOffset() {
  const start = Date.now();
  let tick;
  do tick = Date.now();
  while (tick === start);
  return tick - now();
}
