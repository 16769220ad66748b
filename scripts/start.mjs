/**
 * Starts the sample: compiles it, brings a PostgreSQL (unless DATABASE_URL names one), runs INSTANCES processes of
 * it, and on Ctrl-C lets them finish before the database goes.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { startPostgres } from './embedded-postgres.mjs';

/** @import { ChildProcess } from 'node:child_process' */
/** @typedef {{ url: string, close(): Promise<void> }} Database */
/** @typedef {{ name: string, child: ChildProcess, ended: Promise<string> }} Instance `ended`: how, in words */

const ROOT = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const SAMPLE = path.join(ROOT, 'sample');
const MAX_INSTANCES = 50;
/** The library drains for 20 s at most; an instance that is still there after this is stuck. */
const PATIENCE = 40_000;
/** Nest ends an app that has drained with the signal that it was sent. */
const CLEAN_ENDS = new Set(['exit code 0', 'SIGINT', 'SIGTERM', 'SIGHUP']);
/** How an embedded server knows who uses it, see `close` below. */
const APPLICATION_NAME = 'nestjs-future-call npm start';

/** Aborted once, with the signal to pass on: npm and the terminal may both send theirs. */
const stop = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => stop.abort(signal));
// What ends npm alone ends the shell between npm and us, too, and nobody tells us.
const parent = process.ppid;
if (process.env.npm_lifecycle_event) {
  setInterval(() => process.ppid !== parent && stop.abort('SIGTERM'), 500).unref();
}

// A closed terminal cannot be written to, and must not end us before the others.
process.stdout.on('error', () => {});

try {
  await main();
} catch (error) {
  if (error !== stop.signal.reason) {
    log(error instanceof Error ? error.message : String(error));
    process.exitCode = 1;
  }
}

async function main() {
  const count = instanceCount();
  await unlessStopped(compile());
  const database = process.env.DATABASE_URL
    ? await unlessStopped(givenDatabase(process.env.DATABASE_URL))
    : await unlessStopped(embeddedDatabase());
  try {
    stop.signal.throwIfAborted();
    await runInstances(count, database.url);
  } finally {
    await database.close();
  }
}

/**
 * What Ctrl-C interrupts fails, and that is no news.
 *
 * @template T
 * @param {Promise<T>} step
 */
async function unlessStopped(step) {
  return step.catch((error) => {
    stop.signal.throwIfAborted();
    throw error;
  });
}

function instanceCount() {
  const text = process.env.INSTANCES || '1';
  const count = Number(text);
  if (Number.isInteger(count) && count >= 1 && count <= MAX_INSTANCES) return count;
  throw new Error(`INSTANCES=${text} does not work. Use a whole number from 1 to ${MAX_INSTANCES}.`);
}

async function compile() {
  if (!existsSync(path.join(ROOT, 'dist', 'index.js'))) {
    throw new Error('The library is not built. Start the sample with "npm start", which builds it first.');
  }
  const tsc = fileURLToPath(import.meta.resolve('typescript/bin/tsc'));
  // Only emits, which takes a third of the time: the editor and "npm test" check the types.
  const child = spawn(process.execPath, [tsc, '-p', SAMPLE, '--noCheck', '--noResolve'], {
    stdio: 'inherit',
  });
  const [code] = await once(child, 'exit');
  if (code !== 0) throw new Error('The sample does not compile, see above.');
}

/** @param {string} url @returns {Promise<Database>} */
async function givenDatabase(url) {
  // Nest would try again and again: right for a server that boots, and a riddle to whoever mistyped.
  try {
    const client = new pg.Client(url);
    client.on('error', () => {});
    await client.connect();
    await client.end();
  } catch (error) {
    const { message, code } = /** @type {NodeJS.ErrnoException} */ (error);
    throw new Error(`DATABASE_URL does not work: ${message || code}`, { cause: error });
  }
  log('Using the database of DATABASE_URL');
  return { url, close: async () => {} };
}

/** @returns {Promise<Database>} */
async function embeddedDatabase() {
  const dataDir = path.resolve(process.env.SAMPLE_DATA || path.join(SAMPLE, '.data'));
  const server = await startPostgres({ dataDir, log });
  // Several "npm start" may share the server, and each keeps a connection open to say that it is there.
  const presence = new pg.Client({ connectionString: server.url, application_name: APPLICATION_NAME });
  presence.on('error', () => {}); // the server was stopped by somebody else: the instances report it
  try {
    await presence.connect();
    log(`The database: ${server.url}`);
  } catch (error) {
    if (!server.attached) await server.stop();
    throw error;
  }

  async function close() {
    const others = await countOthers(presence);
    await presence.end();
    if (others > 0) log('The database stays: another "npm start" uses it, and the last one stops it');
    else await server.stop();
  }
  return { url: server.url, close };
}

/** @param {pg.Client} presence */
async function countOthers(presence) {
  try {
    const { rows } = await presence.query(
      'SELECT count(*)::int AS n FROM pg_stat_activity WHERE application_name = $1 AND pid <> pg_backend_pid()',
      [APPLICATION_NAME],
    );
    return rows[0].n;
  } catch {
    return 0; // the connection is gone, and so is the server
  }
}

/** Returns when all of them have ended. @param {number} count @param {string} databaseUrl */
async function runInstances(count, databaseUrl) {
  const first = spawnInstance(1, databaseUrl);
  const instances = [first];
  /** @type {NodeJS.Timeout | undefined} */
  let patience;
  /** @param {NodeJS.Signals} signal */
  function stopAll(signal) {
    instances.forEach(({ child }) => child.kill(signal));
    patience ??= setTimeout(() => {
      log('Not everything ended in time: killing what is left');
      process.exitCode = 1;
      stopAll('SIGKILL');
    }, PATIENCE);
  }
  stop.signal.addEventListener('abort', () => {
    log(`${stop.signal.reason}: what is being sent is finished, then everything stops`);
    stopAll(stop.signal.reason);
  });

  // The first one alone, because it makes the sample's tables; then all the others at once.
  const ready = await Promise.race([
    once(first.child, 'message').then(() => true),
    first.ended.then(() => false),
  ]);
  while (ready && !stop.signal.aborted && instances.length < count) {
    instances.push(spawnInstance(instances.length + 1, databaseUrl));
  }

  // One that crashes takes nobody along: the others find its calls.
  const running = new Set(instances);
  const watch = instances.map(async (instance) => {
    const how = await instance.ended;
    running.delete(instance);
    if (stop.signal.aborted && CLEAN_ENDS.has(how)) return;
    log(`${instance.name} ended (${how})${running.size > 0 ? ', and the others go on' : ''}`);
    if (stop.signal.aborted || running.size === 0) process.exitCode = 1;
  });
  await Promise.all(watch);
  clearTimeout(patience);
}

/** @param {number} number @param {string} databaseUrl @returns {Instance} */
function spawnInstance(number, databaseUrl) {
  const child = spawn(process.execPath, ['--enable-source-maps', path.join(SAMPLE, 'dist', 'main.js')], {
    env: { ...process.env, DATABASE_URL: databaseUrl, INSTANCE: String(number) },
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'], // it says "ready" on the channel
  });
  const ended = once(child, 'exit').then(([code, signal]) => signal ?? `exit code ${code}`);
  return { name: `Process ${number}`, child, ended };
}

/** @param {string} message */
function log(message) {
  console.log(`[npm start] ${message}`);
}
