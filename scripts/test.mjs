// npm test: every check of this repository. Its last line is "N passed, M failed", with ", K skipped" after it when
// something was skipped. Arguments go to vitest: npm test -- test/unit
import { spawn } from 'node:child_process';
import * as fs from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { temporaryPostgres } from './embedded-postgres.mjs';

/** @typedef {{ passed: number, failed: string[], skipped: string[] }} Result what failed and was skipped, by name */

const root = fileURLToPath(new URL('..', import.meta.url));
const folder = await fs.mkdtemp(path.join(os.tmpdir(), 'fc-check-'));
const children = new Set();
let interrupted = '';

for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM'])) {
  process.once(signal, () => {
    interrupted = signal;
    for (const child of children) child.kill(signal);
    process.exitCode = 128 + os.constants.signals[signal];
  });
}

try {
  // The sample, its tests and the package checks read what the build makes.
  const results = [await step('build', 'nest', ['build'])];
  results.push(...(await Promise.all([checks(), vitest(process.argv.slice(2))])));
  report(results);
} finally {
  await fs.rm(folder, { recursive: true, force: true });
}

/** Everything beside the tests proper: one step after the other, while vitest waits for its processes. */
async function checks() {
  const tarball = path.join(folder, 'package.tgz');
  return merge([
    await step('types', 'tsc', ['-p', 'tsconfig.json']),
    await step('lint', 'oxlint', ['--type-aware', '--deny-warnings']),
    await step('format', 'prettier', ['--check', '--log-level', 'warn', '.']),
    await step('pack', process.execPath, ['scripts/pack.mjs', tarball]),
    await step('publint', 'publint', ['run', '--strict', tarball]),
    await step('attw', 'attw', [tarball, '--profile', 'esm-only', '--format', 'ascii']),
    await smoke(tarball),
  ]);
}

/**
 * Apps of both kinds with the packed library, on the oldest and on the newest packages that it works with.
 *
 * @param {string} tarball
 */
async function smoke(tarball) {
  // One server for all of them. Without it each makes its own, and says what is wrong.
  const server = process.env.DATABASE_URL ? undefined : await temporaryPostgres().catch(() => undefined);
  const env = server && { DATABASE_URL: server.url };
  /** @param {string} name @param {string[]} app */
  const runApp = (name, app) =>
    step(`smoke: ${name}`, process.execPath, ['scripts/smoke.mjs', tarball, ...app], env);
  try {
    return merge([
      await runApp('oldest NestJS and TypeORM, ES module', ['oldest', 'module']),
      await runApp('oldest NestJS and TypeORM, CommonJS', ['oldest', 'commonjs']),
      await runApp('newest NestJS and TypeORM, ES module', ['newest', 'module']),
      await runApp('newest NestJS and TypeORM, CommonJS', ['newest', 'commonjs']),
    ]);
  } finally {
    await server?.stop();
  }
}

/**
 * @param {string} name
 * @param {string} file
 * @param {string[]} args
 * @param {Record<string, string>} [env]
 * @returns {Promise<Result>}
 */
async function step(name, file, args, env) {
  const start = performance.now();
  const { code, output } = await run(file, args, { env });
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  if (code === 0) {
    console.log(`✓ ${name} (${seconds} s)`);
    return { passed: 1, failed: [], skipped: [] };
  }
  console.log(`✗ ${name} (${seconds} s): ${path.basename(file)} ${args.join(' ')}\n${output.trimEnd()}\n`);
  return { passed: 0, failed: [name], skipped: [] };
}

/** @param {string[]} args @returns {Promise<Result>} */
async function vitest(args) {
  const file = path.join(folder, 'vitest.json');
  const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${file}`];
  const { code } = await run('vitest', ['run', ...reporters, ...args], { print: true });
  const { testResults } = JSON.parse(await fs.readFile(file, 'utf8').catch(() => '{"testResults":[]}'));

  /** @type {Result} */
  const result = { passed: 0, failed: [], skipped: [] };
  for (const { name, status, assertionResults } of testResults) {
    const where = path.relative(root, name);
    let failures = 0;
    for (const test of assertionResults) {
      if (test.status === 'passed') result.passed++;
      else if (test.status === 'failed') failures = result.failed.push(`${where}: ${test.fullName}`);
      else result.skipped.push(`${where}: ${test.fullName}`);
    }
    if (status === 'failed' && failures === 0) result.failed.push(`${where}: the file itself`);
  }
  // An error outside of every test, or no test at all.
  if (code !== 0 && result.failed.length === 0) result.failed.push(`vitest (exit code ${code})`);
  return result;
}

/**
 * @param {string} file
 * @param {string[]} args
 * @param {{ print?: boolean, env?: Record<string, string> | undefined }} [options] `print`: at once, line by line, instead of keeping it
 * @returns {Promise<{ code: number | string, output: string }>}
 */
function run(file, args, { print = false, env } = {}) {
  return new Promise((resolve) => {
    if (interrupted) return resolve({ code: interrupted, output: '' });
    const child = spawn(file, args, {
      cwd: root,
      shell: process.platform === 'win32',
      stdio: ['ignore', 'pipe', 'pipe'],
      env: {
        ...process.env,
        ...env,
        PATH: [path.join(root, 'node_modules/.bin'), process.env.PATH].join(path.delimiter),
        ...(process.stdout.isTTY && { FORCE_COLOR: '1' }),
      },
    });
    children.add(child);
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream
        .setEncoding('utf8')
        .on('data', (text) => (print ? process.stdout.write(text) : (output += text)));
    }
    child.once('error', (error) => (output += error.message));
    child.once('close', (code, signal) => {
      children.delete(child);
      resolve({ code: signal ?? code ?? 'unknown', output });
    });
  });
}

/** @param {Result[]} results @returns {Result} */
function merge(results) {
  return {
    passed: results.reduce((sum, { passed }) => sum + passed, 0),
    failed: results.flatMap(({ failed }) => failed),
    skipped: results.flatMap(({ skipped }) => skipped),
  };
}

/** @param {Result[]} results */
function report(results) {
  const { passed, failed, skipped } = merge(results);
  console.log();
  for (const name of failed) console.log(`✗ failed: ${name}`);
  for (const name of skipped) console.log(`○ skipped: ${name}`);
  if (failed.length > 0) process.exitCode ??= 1;
  console.log(
    `${passed} passed, ${failed.length} failed${skipped.length > 0 ? `, ${skipped.length} skipped` : ''}`,
  );
}
