import { fork, type ChildProcess } from 'node:child_process';
import * as fs from 'node:fs';
import path from 'node:path';
import { afterAll } from 'vitest';
import { PATIENCE } from './until.js';

/** What an app tells the test (`process.send`), and the test tells the app. */
export interface AppMessage {
  type: string;
  [key: string]: unknown;
}

export interface AppExit {
  code: number | null;
  signal: NodeJS.Signals | null;
}

export interface WaitOptions {
  /** What is waited for, in the words of the error. */
  what?: string;
  /** After how many milliseconds to give up. Long: it only shortens a failure. */
  timeout?: number;
}

export interface SpawnOptions {
  env?: Record<string, string | undefined>;
  args?: string[];
  /** A command that executes the rest of its line, to run Node within. */
  within?: string[];
}

const running = new Set<AppProcess>();
afterAll(async () => {
  await Promise.all([...running].map((app) => app.kill()));
});
// An interrupted run disconnects vitest's worker in the middle of a test, or terminates it. Apps end by themselves
// when they are disconnected from it, but not while they are frozen.
process.once('disconnect', () => process.exit(1));
process.once('SIGTERM', () => process.exit(143));
process.on('exit', () => running.forEach((app) => app.signal('SIGKILL')));

/**
 * Runs `test/support/apps/<name>.ts`, compiled, as a process of its own.
 * It is killed when the test file ends, at the latest.
 */
export function spawnApp(name: string, options: SpawnOptions = {}): AppProcess {
  const file = path.resolve(import.meta.dirname, `../../.cache/apps/test/support/apps/${name}.js`);
  if (!fs.existsSync(file)) throw new Error(`There is no app "${name}": ${file} was not compiled.`);
  return new AppProcess(name, file, options);
}

export class AppProcess {
  readonly pid: number;
  readonly exited: Promise<AppExit>;
  /** Everything that it has told so far. */
  readonly messages: AppMessage[] = [];
  #output = '';
  #exit: AppExit | undefined;
  readonly #child: ChildProcess;
  readonly #checks = new Set<() => void>();

  constructor(
    readonly name: string,
    file: string,
    { env = {}, args = [], within = [] }: SpawnOptions,
  ) {
    const [execPath, ...execArgv] = [...within, process.execPath];
    this.#child = fork(file, args, {
      // Nothing of vitest's: an app runs as it does for a user.
      execPath,
      execArgv,
      env: { ...withoutVitest(process.env), ...env },
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    });
    if (!this.#child.pid) throw new Error(`Node could not start ${file}`);
    this.pid = this.#child.pid;
    running.add(this);

    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => {
        this.#output += text;
        this.#check();
      });
    }
    this.#child.on('message', (message) => {
      this.messages.push(message as AppMessage);
      this.#check();
    });
    this.exited = new Promise((resolve) => {
      // 'close' comes after 'exit', when the output and all messages have been read.
      this.#child.once('close', (code, signal) => {
        this.#exit = { code, signal };
        running.delete(this);
        resolve(this.#exit);
        this.#check();
      });
    });
  }

  /** What it has printed so far, on both streams. */
  get output(): string {
    return this.#output;
  }

  /** The first message that fits, of those it has told and of those to come. */
  async waitFor<M extends AppMessage = AppMessage>(
    fits: string | ((message: AppMessage) => boolean),
    options: WaitOptions = {},
  ): Promise<M> {
    const test = typeof fits === 'string' ? (message: AppMessage) => message.type === fits : fits;
    const what = options.what ?? (typeof fits === 'string' ? `"${fits}"` : 'a message');
    return this.#wait(() => this.messages.find((message) => test(message)) as M | undefined, what, options);
  }

  /** Until it has told `count` messages of this type. */
  waitForCount(type: string, count: number, options: WaitOptions = {}): Promise<AppMessage[]> {
    const enough = () => {
      const found = this.messages.filter((message) => message.type === type);
      return found.length >= count ? found : undefined;
    };
    return this.#wait(enough, `${count} × "${type}"`, options);
  }

  /** Until it has printed something that fits. */
  waitForOutput(fits: RegExp, options: WaitOptions = {}): Promise<RegExpExecArray> {
    return this.#wait(() => fits.exec(this.#output) ?? undefined, String(fits), options);
  }

  send(message: AppMessage): void {
    this.#child.send(message);
  }

  /** SIGSTOP freezes it, SIGCONT lets it go on; false when it has ended. */
  signal(signal: NodeJS.Signals): boolean {
    return this.#exit === undefined && this.#child.kill(signal);
  }

  /** Ends it at once, as a crash does, also while it is frozen. */
  kill(): Promise<AppExit> {
    this.signal('SIGKILL');
    return this.exited;
  }

  /** Ends it as an orchestrator does. */
  terminate(): Promise<AppExit> {
    this.signal('SIGTERM');
    return this.exited;
  }

  #wait<T>(look: () => T | undefined, what: string, { timeout = PATIENCE }: WaitOptions): Promise<T> {
    return new Promise((resolve, reject) => {
      const settle = (end: () => void) => {
        clearTimeout(timer);
        this.#checks.delete(check);
        end();
      };
      const fail = (why: string) => {
        const told = this.messages.slice(-20).map((message) => JSON.stringify(message));
        const lines = [`${this.name} (pid ${this.pid}) ${why} ${what}.`, 'It told:', ...told];
        settle(() => reject(new Error([...lines, 'It printed:', this.#output.slice(-4000)].join('\n'))));
      };
      const check = () => {
        const found = look();
        if (found !== undefined) settle(() => resolve(found));
        else if (this.#exit) fail(`ended (${this.#exit.signal ?? this.#exit.code}) before`);
      };
      const timer = setTimeout(() => fail(`did not give, in ${timeout} ms,`), timeout);
      this.#checks.add(check);
      check();
    });
  }

  #check(): void {
    for (const check of this.#checks) check();
  }
}

function withoutVitest(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(
    Object.entries(env).filter(([key]) => !/^(VITEST|VITE_|NODE_ENV$|NODE_OPTIONS$|TEST$)/.test(key)),
  );
}
