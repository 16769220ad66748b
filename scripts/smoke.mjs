// node scripts/smoke.mjs <tarball> <oldest | newest> <module | commonjs>: installs the packed library into an app of
// that kind, beside the oldest or the newest packages that it works with, compiles the app, and runs it on a real
// PostgreSQL. Needs no network.
import { execFile, execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import * as fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { temporaryPostgres } from './embedded-postgres.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
/** Where the packages are that the library asks for. */
const PACKAGES = {
  oldest: path.join(root, 'test/package/oldest/node_modules'),
  newest: path.join(root, 'node_modules'),
};

const [tarball = 'package.tgz', age = 'newest', type = 'module'] = process.argv.slice(2);
const packages = PACKAGES[/** @type {keyof typeof PACKAGES} */ (age)];
const app = fs.mkdtempSync(path.join(os.tmpdir(), 'fc-smoke-'));

const stop = new AbortController();
for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM'])) {
  process.once(signal, () => {
    stop.abort(new Error(`Interrupted by ${signal}.`));
    process.exitCode = 128 + os.constants.signals[signal];
  });
}

try {
  install();
  await compile();
  await withDatabase(endBySignal);
  await missDriver();
} catch (error) {
  console.error(/** @type {Error} */ (error).message);
  process.exitCode ??= 1;
} finally {
  fs.rmSync(app, { recursive: true, force: true });
}

/** What `npm install` does, with the packages of this repository for those that the library asks for. */
function install() {
  const library = path.join(app, 'node_modules/nestjs-future-call');
  fs.mkdirSync(library, { recursive: true });
  execFileSync('tar', ['-xzf', path.resolve(tarball), '-C', library, '--strip-components=1']);

  // Only what it declares: an import of anything else fails here, as it would for its users.
  const { dependencies = {}, peerDependencies = {} } = manifestOf(library);
  for (const name of [...Object.keys(dependencies), '@types/node'])
    link(name, path.join(root, 'node_modules'));
  for (const name of Object.keys(peerDependencies)) link(name, packages);
}

/** @param {string} name @param {string} from */
function link(name, from) {
  const target = path.join(app, 'node_modules', name);
  fs.mkdirSync(path.dirname(target), { recursive: true });
  fs.symlinkSync(path.join(from, name), target, 'junction');
}

/** @param {string} folder */
function manifestOf(folder) {
  return JSON.parse(fs.readFileSync(path.join(folder, 'package.json'), 'utf8'));
}

async function compile() {
  const compilerOptions = {
    target: 'es2023',
    // What apps on CommonJS have: those of Nest 11 were made with `commonjs`.
    module: age === 'oldest' && type === 'commonjs' ? 'commonjs' : 'nodenext',
    types: ['node'],
    strict: true,
    experimentalDecorators: true,
    emitDecoratorMetadata: true,
    skipLibCheck: true,
  };
  fs.writeFileSync(path.join(app, 'package.json'), JSON.stringify({ private: true, type }));
  fs.writeFileSync(path.join(app, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['app.ts'] }));
  const sources = path.join(root, 'test/package');
  for (const file of fs.readdirSync(sources).filter((name) => name.endsWith('.ts'))) {
    fs.copyFileSync(path.join(sources, file), path.join(app, file));
  }
  const { code, stdout } = await run(path.join(root, 'node_modules/typescript/bin/tsc'));
  if (code !== 0) throw new Error(`It does not compile:\n${stdout}`);
}

/** It ends by the signal that it sends itself, once it has drained. @param {string} url */
async function endBySignal(url) {
  const { signal, stdout, stderr } = await run('app.js', { DATABASE_URL: url });
  if (signal === 'SIGTERM' && stdout.endsWith('drained\n')) return;
  throw new Error(`It was to end with SIGTERM once it has drained, and it said\n${stdout}${stderr}`);
}

/** Without the driver it says which package is missing, and who misses it. */
async function missDriver() {
  fs.rmSync(path.join(app, 'node_modules/pg'));
  const { stderr } = await run('app.js');
  const expected = /Cannot find package 'pg' imported from .*nestjs-future-call/;
  if (!expected.test(stderr)) throw new Error(`Without pg it says\n${stderr}\nand not ${String(expected)}.`);
}

/**
 * @param {string} script
 * @param {Record<string, string>} [env]
 * @returns {Promise<{ code: unknown, signal: string | undefined, stdout: string, stderr: string }>}
 */
function run(script, env) {
  const options = {
    cwd: app,
    env: { ...process.env, ...env },
    signal: stop.signal,
    timeout: 300_000,
    // Not the signal that the app is to end with.
    killSignal: /** @type {const} */ ('SIGKILL'),
  };
  return new Promise((resolve, reject) => {
    execFile(process.execPath, [script], options, (error, stdout, stderr) => {
      if (stop.signal.aborted) reject(stop.signal.reason);
      else resolve({ code: error?.code ?? 0, signal: error?.signal, stdout, stderr });
    });
  });
}

/** @param {(url: string) => Promise<void>} use */
async function withDatabase(use) {
  const given = process.env.DATABASE_URL;
  const server = given ? undefined : await temporaryPostgres();
  const url = new URL(server?.url ?? /** @type {string} */ (given));
  const client = new pg.Client(url.href);
  const name = `fc_smoke_${randomBytes(4).toString('hex')}`;
  try {
    await client.connect();
    await client.query(`create database ${name}`);
    url.pathname = `/${name}`;
    await use(url.href);
  } finally {
    await client.query(`drop database if exists ${name} with (force)`).catch(console.error);
    await client.end();
    await server?.stop();
  }
}
