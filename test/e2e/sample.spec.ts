import { spawn } from 'node:child_process';
import { once } from 'node:events';
import * as fs from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { describe, expect, it, onTestFinished } from 'vitest';
import { createDatabase } from '../support/database.js';
import { until } from '../support/until.js';

const SCRIPT = path.resolve(import.meta.dirname, '../../scripts/start.mjs');
const SUBJECTS = ['Your first day', 'One week in', 'A month already!'];
const ADA = 'ada@example.com';
const DEMO = 'demo@example.com';
const HOUR = 3_600_000;
const CLEAN = { code: 0, leavesNothing: true };

interface UpcomingMail {
  to: string;
  subject: string;
  dueAt: string;
}

interface Outbox {
  sent: { to: string; subject: string; sentAt: string }[];
  upcoming: UpcomingMail[];
}

describe('the sample', () => {
  // Whoever names a database may be on a machine that the embedded one does not run on.
  it.skipIf(process.env.DATABASE_URL)('brings its own database, and goes on after a restart', async () => {
    const env = { SAMPLE_DATA: await temporaryFolder(), DAY: '200ms' };

    const before = await Sample.start(env);
    const { status, body } = await before.signUp(ADA);
    expect(status).toBe(201);
    expect(body).toMatchObject(SUBJECTS.map((subject) => ({ to: ADA, subject })));
    expect(await before.interrupt()).toEqual(CLEAN);
    expect(await fs.readdir(env.SAMPLE_DATA)).not.toContain('postmaster.pid');

    const after = await Sample.start(env);
    const sent = await until(async () => {
      const mails = (await after.outbox()).sent.filter(({ to }) => to === ADA);
      return mails.length >= SUBJECTS.length && mails;
    }, 'every mail to Ada is sent');
    // In any order: what became due while nothing ran is sent at the same time.
    expect(sent.map(({ subject }) => subject).toSorted()).toEqual(SUBJECTS.toSorted());
    for (const { sentAt } of sent) expect(new Date(sentAt).toJSON()).toBe(sentAt);
    await after.printed(/\[Process 1\] .* Sent "A month already!" to ada@example\.com/);
    await after.interruptImpatiently();
    expect(after.output).toMatch(/PostgreSQL \S+ stopped \(fast\)\n$/);
    expect(await fs.readdir(env.SAMPLE_DATA)).not.toContain('postmaster.pid');
  });

  it('does what it says in three processes on a given database', async () => {
    const database = await temporaryDatabase();
    const env = { DATABASE_URL: database.url, INSTANCES: '3', DAY: '1h' };
    const sample = await Sample.start(env);
    for (const number of [1, 2, 3]) {
      await sample.printed(new RegExp(`\\[Process ${number}\\] .* runs future calls`));
    }
    expect(sample.output.match(/http:\/\/localhost:\d+/g)).toHaveLength(1);
    expect(await sample.page()).toContain('a day lasts 1 hour');

    const demo = await sample.upcoming(DEMO);
    expect(demo.map(({ subject }) => subject)).toEqual(SUBJECTS);
    // An hour instead of a day: 7 of them are a week, and 28 to 31 are a month.
    const [day, week, month] = demo.map(({ dueAt }) => Date.parse(dueAt));
    expect(Math.round((week! - day!) / HOUR)).toBe(6);
    expect([27, 28, 29, 30]).toContain(Math.round((month! - day!) / HOUR));

    // Signing up; signing up again, in another spelling; several times at once.
    const first = await sample.signUp(ADA);
    expect(await sample.upcoming(ADA)).toEqual(first.body);
    const second = await sample.signUp(' Ada@Example.com');
    expect(await sample.upcoming(ADA)).toEqual(second.body);
    await Promise.all(Array.from({ length: 8 }, () => sample.signUp(ADA)));
    expect(await sample.upcoming(ADA)).toHaveLength(SUBJECTS.length);

    expect(await sample.leave(ADA)).toEqual({ status: 200, body: { cancelled: 3 } });
    expect(await sample.leave(ADA)).toEqual({ status: 200, body: { cancelled: 0 } });
    expect(await sample.upcoming(ADA)).toEqual([]);

    for (const email of [undefined, null, 7, {}, '', 'ada', 'ada@', '@b.com', 'a b@c.com', 'a@\ud800.com']) {
      expect(await sample.signUp(email), JSON.stringify(email)).toMatchObject({ status: 400 });
    }
    expect(await sample.leave('ada')).toMatchObject({ status: 400 });

    await database.query(
      `insert into future_call (name, data, due_at)
       select 'sendMail', jsonb_build_object('to', 'all@example.com', 'subject', n::text), now()
       from generate_series(1, 300) as n`,
    );
    const sent = await until(async () => {
      const mails = (await sample.outbox()).sent;
      return mails.length >= 300 && mails;
    }, 'everything that was due is sent');
    expect(new Set(sent.map(({ subject }) => subject)).size).toBe(sent.length);

    expect(await sample.interrupt()).toEqual(CLEAN);
    expect(await database.query('select * from future_call_instance')).toEqual([]);

    // The demo user is signed up once.
    const again = await Sample.start({ ...env, INSTANCES: '1' });
    await again.printed(/signed up before/);
    expect(await again.upcoming(DEMO)).toEqual(demo);
    // Browsers connect ahead of time; that must not hold up the end.
    await again.connect();
    expect(await again.interrupt()).toEqual(CLEAN);
  });

  it('says that its port is taken, and how to choose another one', async () => {
    const database = await temporaryDatabase();
    const server = net.createServer().listen(0);
    onTestFinished(() => void server.close());
    await once(server, 'listening');
    const { port } = server.address() as net.AddressInfo;

    const sample = new Sample({ DATABASE_URL: database.url, INSTANCES: '2', PORT: String(port) });
    expect(await sample.ended).toBe(1);
    expect(sample.output).toContain(`Port ${port} is taken.`);
    expect(sample.output).toContain(`PORT=${port + 1} npm start`);
    expect(sample.output).not.toContain('[Process 2]');
    expect(sample.leavesNothing()).toBe(true);
  });

  it.each([
    [{ DAY: 'soon' }, 'DAY=soon does not work. Use a duration such as DAY=2s'],
    [{ DATABASE_URL: 'postgres://localhost:1/none' }, 'DATABASE_URL does not work: '],
  ])('says in a sentence what is wrong with %o', async (env, sentence) => {
    const database = await temporaryDatabase();
    const sample = new Sample({ DATABASE_URL: database.url, ...env });
    expect(await sample.ended).toBe(1);
    expect(sample.output).toContain(sentence);
    expect(sample.output).not.toMatch(/^ +at /m);
    expect(sample.leavesNothing()).toBe(true);
  });

  it('goes on when one of its processes is killed, and ends when all are', async () => {
    const database = await temporaryDatabase();
    const sample = await Sample.start({ DATABASE_URL: database.url, INSTANCES: '2', DAY: '1h' });
    const kill = async (name: string) => {
      const [, pid] = await sample.printed(new RegExp(`\\[${name}\\] (\\d+) .* runs future calls`));
      process.kill(Number(pid), 'SIGKILL');
    };
    await kill('Process 2');
    await sample.printed(/Process 2 ended \(SIGKILL\), and the others go on/);
    await sample.printed(/\[Process 1\] .* was taken for dead: .* No call was interrupted/);
    await kill('Process 1');
    expect(await sample.ended).toBe(1);
    expect(sample.output).toMatch(/Process 1 ended \(SIGKILL\)$/m);
    expect(sample.leavesNothing()).toBe(true);
  });

  it.each([
    ['its terminal is closed', 'hangUp', CLEAN],
    ['its launcher is killed', 'kill', { ...CLEAN, code: null }],
  ] as const)('drains when %s', async (_, way, expected) => {
    const database = await temporaryDatabase();
    const sample = await Sample.start({ DATABASE_URL: database.url, INSTANCES: '2', DAY: '1h' });
    await sample.printed(/\[Process 2\] .* runs future calls/);
    expect(await sample[way]()).toEqual(expected);
    expect(await database.query('select * from future_call_instance')).toEqual([]);
  });
});

async function temporaryDatabase() {
  const database = await createDatabase();
  onTestFinished(() => database.drop());
  return database;
}

/** One that the database's user can enter, who is another one when we are root. */
async function temporaryFolder(): Promise<string> {
  const folder = await fs.mkdtemp(path.join(os.tmpdir(), 'fc-sample-'));
  onTestFinished(() => fs.rm(folder, { recursive: true, force: true }));
  await fs.chmod(folder, 0o755);
  return path.join(folder, 'data');
}

/** What `npm start` runs, in a process group of its own, as a terminal does it. Ended with the test at the latest. */
class Sample {
  output = '';
  /** Its exit code. */
  readonly ended: Promise<number | null>;
  readonly #pid: number;
  readonly #outputs: Readable[];
  #address = '';

  static async start(env: NodeJS.ProcessEnv): Promise<Sample> {
    const sample = new Sample(env);
    const [address] = await sample.printed(/http:\/\/localhost:\d+/);
    sample.#address = address;
    // The last word of the first process: until then the demo user may not be there.
    await sample.printed(/demo@example\.com signed up/);
    return sample;
  }

  constructor(env: NodeJS.ProcessEnv) {
    // From the environment only what a user's shell has, and nothing of vitest's.
    const { PATH, HOME, TMPDIR, LANG } = process.env;
    const child = spawn(process.execPath, [SCRIPT], {
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
      // As under npm: it ends by itself when this process is gone.
      env: { PATH, HOME, TMPDIR, LANG, PORT: '0', NO_COLOR: '1', npm_lifecycle_event: 'start', ...env },
    });
    this.#pid = child.pid!;
    this.#outputs = [child.stdout, child.stderr];
    for (const stream of this.#outputs) {
      stream.setEncoding('utf8').on('data', (text: string) => (this.output += text));
    }
    this.ended = once(child, 'close').then(([code]) => code as number | null);
    onTestFinished(async () => {
      if (!this.leavesNothing()) process.kill(-this.#pid, 'SIGTERM');
      await this.ended;
    });
  }

  /** Ctrl-C, and what comes of it. */
  async interrupt() {
    process.kill(-this.#pid, 'SIGINT');
    return this.#end();
  }

  /** As when the window of the terminal is closed: nobody reads what is printed any more. */
  async hangUp() {
    for (const output of this.#outputs) output.destroy();
    process.kill(-this.#pid, 'SIGHUP');
    return this.#end();
  }

  /** Kills what `npm start` runs, and only that: who else belongs to it has to find out. */
  async kill() {
    process.kill(this.#pid, 'SIGKILL');
    await until(async () => this.leavesNothing(), 'all that it had started ends');
    return this.#end();
  }

  async #end() {
    return { code: await this.ended, leavesNothing: this.leavesNothing() };
  }

  /** Ctrl-C again and again. Its exit code is of no interest: the last one may come when all is done. */
  async interruptImpatiently(): Promise<void> {
    const again = setInterval(() => this.leavesNothing() || process.kill(-this.#pid, 'SIGINT'), 20);
    await this.interrupt().finally(() => clearInterval(again));
  }

  /** Whether no process of its group is left. */
  leavesNothing(): boolean {
    try {
      process.kill(-this.#pid, 0);
      return false;
    } catch {
      return true;
    }
  }

  async printed(fits: RegExp): Promise<RegExpExecArray> {
    const end = this.ended.then((code) => Promise.reject(new Error(`It ended (exit code ${code}).`)));
    const found = until(async () => fits.exec(this.output), 'it prints that');
    return Promise.race([found, end]).catch((error: unknown) => {
      throw new Error(`The sample has not printed ${fits}, but:\n${this.output}`, { cause: error });
    });
  }

  async signUp(email: unknown) {
    const headers = { 'Content-Type': 'application/json' };
    return this.#ask<UpcomingMail[]>('/signup', { method: 'POST', headers, body: JSON.stringify({ email }) });
  }

  async leave(email: string) {
    return this.#ask<{ cancelled: number }>(`/signup/${encodeURIComponent(email)}`, { method: 'DELETE' });
  }

  async outbox(): Promise<Outbox> {
    return (await this.#ask<Outbox>('/outbox')).body;
  }

  async upcoming(email: string): Promise<UpcomingMail[]> {
    return (await this.outbox()).upcoming.filter(({ to }) => to === email);
  }

  /** Connects, and sends nothing. */
  async connect(): Promise<void> {
    const socket = net.connect(Number(new URL(this.#address).port), 'localhost');
    socket.on('error', () => {});
    await once(socket, 'connect');
  }

  async page(): Promise<string> {
    return (await fetch(this.#address)).text();
  }

  async #ask<Body>(route: string, request?: RequestInit): Promise<{ status: number; body: Body }> {
    const response = await fetch(this.#address + route, request);
    return { status: response.status, body: (await response.json()) as Body };
  }
}
