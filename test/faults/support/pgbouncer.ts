import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import * as fs from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { onTestFinished } from 'vitest';

/** Debian installs it where only root looks for commands. */
export const PGBOUNCER = ['/usr/sbin', ...(process.env.PATH ?? '').split(path.delimiter)]
  .map((folder) => path.join(folder, 'pgbouncer'))
  .find((file) => existsSync(file));

/** The name of its socket needs one, and nothing listens there. */
const PORT = 6432;

/**
 * A PgBouncer in front of one database, in transaction mode, until the test ends. Answers with the database's URL by
 * way of it.
 */
export async function startPgBouncer(databaseUrl: string): Promise<string> {
  const target = new URL(databaseUrl);
  const name = target.pathname.slice(1);
  const connection = {
    host: target.searchParams.get('host') ?? target.hostname,
    port: target.port || '5432',
    dbname: name,
    user: decodeURIComponent(target.username),
    password: decodeURIComponent(target.password),
  };
  const owner = await unprivilegedUser();
  const folder = await fs.mkdtemp(path.join(os.tmpdir(), 'fc-pgbouncer-'));
  const settings = Object.entries(connection).filter(([, value]) => value !== '');
  await fs.writeFile(
    path.join(folder, 'pgbouncer.ini'),
    `[databases]
${name} = ${settings.map(([key, value]) => `${key}='${value}'`).join(' ')}
[pgbouncer]
unix_socket_dir = ${folder}
listen_port = ${PORT}
auth_type = any
pool_mode = transaction
default_pool_size = 5
`,
  );
  if (owner)
    await Promise.all([folder, `${folder}/pgbouncer.ini`].map((file) => fs.chown(file, owner, owner)));

  // It ends when the pipe to its shell does: however this process ends, nothing is left.
  const script = '"$0" "$1/pgbouncer.ini" < /dev/null & cat > /dev/null; kill $!; wait; rm -r "$1"';
  const shell = spawn('sh', ['-c', script, PGBOUNCER!, folder], {
    ...(owner && { uid: owner, gid: owner }),
    cwd: '/',
    detached: true,
    stdio: ['pipe', 'ignore', 'pipe'],
  });
  const ended = once(shell, 'exit');
  onTestFinished(async () => {
    shell.stdin.end();
    await ended;
  });
  await new Promise<void>((resolve, reject) => {
    let output = '';
    shell.stderr.setEncoding('utf8').on('data', (text: string) => {
      output += text;
      if (output.includes('process up')) resolve();
      else if (/FATAL|ERROR/.test(output)) reject(new Error(`PgBouncer did not start:\n${output}`));
    });
  });
  return `postgres://app@localhost:${PORT}/${name}?host=${encodeURIComponent(folder)}`;
}

/** PgBouncer refuses to run as root. */
async function unprivilegedUser(): Promise<number | undefined> {
  if (process.getuid?.() !== 0) return undefined;
  const { stdout } = await promisify(execFile)('id', ['-u', 'postgres']);
  return Number(stdout);
}
