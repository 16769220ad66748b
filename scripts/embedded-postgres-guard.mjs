// Outlives the process that made a temporary PostgreSQL, ends the server, and removes its folder.
// Started by embedded-postgres.mjs; standard input is a pipe from that process, and closes when it ends.
import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const [folder = '', dataDir = ''] = process.argv.slice(2);

process.stdin.resume();
process.stdin.once('close', async () => {
  // Something may still be about to start in there: it is over when the folder stays away.
  for (let round = 0, absent = 0; round < 150 && absent < 3; round++) {
    const pid = Number.parseInt(read(path.join(dataDir, 'postmaster.pid')), 10);
    const stopping = pid > 0 && round < 50 && signal(pid, 'SIGQUIT');
    if (!stopping) absent = remove(folder) ? absent + 1 : 0;
    await sleep(100);
  }
  process.exit();
});

/** @param {string} file */
function read(file) {
  try {
    return fs.readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}

/** @param {string} target */
function remove(target) {
  try {
    fs.rmSync(target, { recursive: true, force: true });
    return true;
  } catch {
    return false;
  }
}

/** @param {number} pid @param {NodeJS.Signals} name */
function signal(pid, name) {
  try {
    return process.kill(pid, name);
  } catch {
    return false;
  }
}
