/**
 * npm run bench: installs what the benchmarks need (once), builds the library as it is, and starts the suite under
 * one Node for everybody. Nothing of it stays behind but `bench/node_modules`.
 */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import fs from 'node:fs/promises';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const BENCH = fileURLToPath(new URL('.', import.meta.url));
const ROOT = path.dirname(path.resolve(BENCH));
const WINDOWS = process.platform === 'win32';

let child;
let interrupted = false;
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.on(signal, () => {
    interrupted = true;
    // Ctrl-C reaches everybody; this is for who signals us alone.
    child?.kill(signal);
  });
}

// FUTURE_CALL_LIBRARY measures another build, so that two can be compared.
const given = process.env.FUTURE_CALL_LIBRARY;
let built;
try {
  await install();
  const library = given ? path.resolve(given) : await build();
  process.exitCode = await run(node(), [path.join(BENCH, 'suite', 'main.mjs'), ...process.argv.slice(2)], {
    env: { ...process.env, FUTURE_CALL_LIBRARY: library },
    accept: true,
  });
} catch (error) {
  // What was interrupted has failed, and is no news.
  if (!interrupted) console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
} finally {
  if (built) await fs.rm(built, { recursive: true, force: true });
}

/** Compiles the library into a folder of this run's own: nobody's build gets in between. */
async function build() {
  await fs.mkdir(path.join(BENCH, '.cache'), { recursive: true });
  built = await fs.mkdtemp(path.join(BENCH, '.cache', 'library-'));
  const tsc = path.join(ROOT, 'node_modules', 'typescript', 'bin', 'tsc');
  await run(process.execPath, [tsc, '-p', path.join(ROOT, 'tsconfig.build.json'), '--outDir', built]);
  return built;
}

/** `npm ci`, when there is nothing yet or the lock file is newer. */
async function install() {
  const done = path.join(BENCH, 'node_modules', '.package-lock.json');
  const lock = path.join(BENCH, 'package-lock.json');
  if (existsSync(done) && (await fs.stat(done)).mtimeMs >= (await fs.stat(lock)).mtimeMs) return;
  console.error('Installing what the benchmarks need into bench/node_modules (once)…');
  await run('npm', ['ci', '--prefix', BENCH, '--no-audit', '--no-fund', '--loglevel', 'error'], {
    shell: WINDOWS,
  });
}

/** The Node of the benchmarks' own packages, where there is one for this machine: the peers need 22.18. */
function node() {
  const name = `node-${WINDOWS ? 'win' : process.platform}-${os.arch()}`;
  try {
    const manifest = createRequire(import.meta.url).resolve(`${name}/package.json`);
    return path.join(path.dirname(manifest), 'bin', WINDOWS ? 'node.exe' : 'node');
  } catch {
    const [major, minor] = process.versions.node.split('.').map(Number);
    if (major > 22 || (major === 22 && minor >= 18)) return process.execPath;
    throw new Error(
      `The peers need Node 22.18, and there is no ${name} among the packages: run this under Node 22.18 or newer.`,
    );
  }
}

/**
 * @param {string} file
 * @param {string[]} args
 * @param {{ accept?: boolean } & import('node:child_process').SpawnOptions} [options] `accept`: any exit code
 * @returns {Promise<number>}
 */
function run(file, args, { accept = false, ...options } = {}) {
  return new Promise((resolve, reject) => {
    if (interrupted) return reject(new Error('Interrupted.'));
    child = spawn(file, args, { stdio: 'inherit', ...options });
    child.once('error', reject);
    child.once('close', (code, signal) => {
      if (accept || code === 0) resolve(code ?? 128 + os.constants.signals[signal]);
      else reject(new Error(`${path.basename(file)} ${args[0]} failed (${signal ?? `exit code ${code}`}).`));
    });
  });
}
