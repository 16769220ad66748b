// node scripts/smoke.mjs <tarball> <module | commonjs>: installs the packed library into an app of that kind,
// compiles the app, and runs it on a real PostgreSQL. Needs no network.
import { execFileSync, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import * as fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { temporaryPostgres } from './embedded-postgres.mjs';

const [tarball = 'package.tgz', type = 'module'] = process.argv.slice(2);
const root = fileURLToPath(new URL('..', import.meta.url));
const app = fs.mkdtempSync(path.join(os.tmpdir(), 'fc-smoke-'));
try {
  install();
  compile();
  await withDatabase((url) => run('app.js', { DATABASE_URL: url }));
  missDriver();
} catch (error) {
  console.error(/** @type {Error} */ (error).message);
  process.exitCode = 1;
} finally {
  fs.rmSync(app, { recursive: true, force: true });
}

/** What `npm install` does, with the packages of this repository for those that the library asks for. */
function install() {
  const library = path.join(app, 'node_modules/nestjs-future-call');
  fs.mkdirSync(library, { recursive: true });
  execFileSync('tar', ['-xzf', path.resolve(tarball), '-C', library, '--strip-components=1']);

  // Only what it declares: an import of anything else fails here, as it would for its users.
  const { dependencies = {}, peerDependencies = {} } = JSON.parse(
    fs.readFileSync(path.join(library, 'package.json'), 'utf8'),
  );
  const names = [...Object.keys(dependencies), ...Object.keys(peerDependencies), '@types/node'];
  for (const name of names) {
    const link = path.join(app, 'node_modules', name);
    fs.mkdirSync(path.dirname(link), { recursive: true });
    fs.symlinkSync(path.join(root, 'node_modules', name), link, 'junction');
  }
}

function compile() {
  const compilerOptions = {
    target: 'es2023',
    module: 'nodenext',
    types: ['node'],
    strict: true,
    experimentalDecorators: true,
    emitDecoratorMetadata: true,
    skipLibCheck: true,
  };
  fs.writeFileSync(path.join(app, 'package.json'), JSON.stringify({ private: true, type }));
  fs.writeFileSync(path.join(app, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['app.ts'] }));
  fs.copyFileSync(path.join(root, 'test/package/app.ts'), path.join(app, 'app.ts'));
  run(path.join(root, 'node_modules/typescript/bin/tsc'));
}

/** It has to end by itself. @param {string} script @param {Record<string, string>} [env] */
function run(script, env) {
  execFileSync(process.execPath, [script], {
    cwd: app,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'inherit', 'inherit'],
    timeout: 300_000,
  });
}

/** Without the driver it says which package is missing, and who misses it. */
function missDriver() {
  fs.rmSync(path.join(app, 'node_modules/pg'));
  const { stderr } = spawnSync(process.execPath, ['app.js'], {
    cwd: app,
    encoding: 'utf8',
    timeout: 300_000,
  });
  const expected = /Cannot find package 'pg' imported from .*nestjs-future-call/;
  if (!expected.test(stderr)) throw new Error(`Without pg it says\n${stderr}\nand not ${String(expected)}.`);
}

/** @param {(url: string) => void} use */
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
    use(url.href);
  } finally {
    await client.query(`drop database if exists ${name} with (force)`).catch(console.error);
    await client.end();
    await server?.stop();
  }
}
