import { fork } from 'node:child_process';
import { EventEmitter, once } from 'node:events';
import { fileURLToPath } from 'node:url';

/** Every measured process that lives. */
const living = new Set();

/** Ends every measured process at once. */
export async function killAll() {
  await Promise.all([...living].map((child) => child.kill()));
}

/** A measured process, as the suite sees it: its methods are called by name. */
export class MeasuredProcess extends EventEmitter {
  #child;
  #calls = 0;
  #waiting = new Map();
  #exited;

  /** @param {'executor' | 'scheduler'} program @param {string[]} [execArgv] */
  constructor(program, execArgv = []) {
    super();
    const file = fileURLToPath(new URL(`../processes/${program}.mjs`, import.meta.url));
    this.#child = fork(file, [], { execArgv, stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
    living.add(this);
    this.#exited = once(this.#child, 'exit').then(([code, signal]) => {
      living.delete(this);
      for (const { reject } of this.#waiting.values()) {
        reject(new Error(`The ${program} ended (${signal ?? `exit code ${code}`}) instead of answering.`));
      }
    });
    this.#child.on('message', ({ id, result, error, event, value }) => {
      if (event !== undefined) {
        this.emit(event, value);
        return;
      }
      const { resolve, reject } = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error === undefined) resolve(result);
      else reject(new Error(error));
    });
  }

  get pid() {
    return this.#child.pid;
  }

  get isAlive() {
    return living.has(this);
  }

  /** @param {string} method @param {unknown} [argument] */
  call(method, argument) {
    const id = this.#calls++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#child.send({ id, method, argument });
    });
  }

  async kill() {
    this.#child.kill('SIGKILL');
    await this.#exited;
  }

  /** Lets it end by itself: it has been stopped. */
  async ended() {
    if (this.#child.connected) this.#child.disconnect();
    await this.#exited;
  }
}
