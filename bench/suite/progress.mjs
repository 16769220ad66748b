const TTY = process.stderr.isTTY;
const QUIET_FOR = 100;

let prefix = '';
let shownAt = 0;

/** What is measured now. Without a terminal this is the whole progress: a line for each measurement. */
export function measuring(text) {
  prefix = text;
  if (TTY) show(text);
  else process.stderr.write(`${text}\n`);
}

/** How far it is. */
export function progress(text) {
  if (!TTY || performance.now() - shownAt < QUIET_FOR) return;
  shownAt = performance.now();
  show(`${prefix}: ${text}`);
}

export function clearProgress() {
  if (TTY) show('');
}

function show(text) {
  process.stderr.write(`\r\x1b[2K${text.slice(0, process.stderr.columns - 1)}`);
}
