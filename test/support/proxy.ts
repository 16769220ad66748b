import { once } from 'node:events';
import net from 'node:net';

/** What becomes of an answer: it goes on, it is lost with its connection, or it and all that follows is kept back. */
export type Verdict = 'pass' | 'cut' | 'freeze';

/** An answer of the server, before the client has seen any of it. */
export interface HeldAnswer {
  /** The statement's name without the hash at its end, or its text where it has none. */
  readonly statement: string;
  /** How many rows it returned. */
  readonly rows: number;
  /** What the server says that it did, such as `DELETE 3`; undefined after an error. */
  readonly tag: string | undefined;
}

/**
 * A bad network between an app and PostgreSQL. It knows the protocol as far as it must: which statement an answer is
 * for, and what is a notification.
 */
export class PostgresProxy {
  /** How many connections have been asked for. */
  accepted = 0;
  /** New connections end at once. */
  refuses = false;
  /** For so many milliseconds every answer is on its way. It may grow, but not shrink: answers would overtake each other. */
  delay = 0;
  /** Notifications get lost, and nothing else. */
  dropsNotifications = false;
  /** Statements whose answers have gone on: how time passes for whoever is behind the proxy. */
  readonly answered: string[] = [];
  /** Decides about every answer. */
  judge: (answer: HeldAnswer) => Verdict = () => 'pass';
  readonly #links = new Set<Link>();
  #freezesNew = false;
  #target: net.NetConnectOpts;

  private constructor(
    private readonly listener: net.Server,
    serverUrl: string,
  ) {
    this.#target = targetOf(serverUrl);
    listener.on('connection', (client) => this.#accept(client));
  }

  /** In front of the server that the URL leads to. */
  static async start(serverUrl: string): Promise<PostgresProxy> {
    const listener = net.createServer({ pauseOnConnect: true, allowHalfOpen: true }).listen(0, '127.0.0.1');
    await once(listener, 'listening');
    return new PostgresProxy(listener, serverUrl);
  }

  /** The same database and user, by way of the proxy. */
  url(databaseUrl: string): string {
    const url = new URL(databaseUrl);
    url.searchParams.delete('host');
    url.hostname = '127.0.0.1';
    url.port = String((this.listener.address() as net.AddressInfo).port);
    return url.href;
  }

  /** Where new connections lead from now on. */
  leadTo(serverUrl: string): void {
    this.#target = targetOf(serverUrl);
  }

  /**
   * Nothing goes through any more, in neither direction, and neither side hears that the other one has ended. With
   * `alsoNew` new connections are frozen too.
   */
  freeze({ alsoNew = false } = {}): void {
    this.#freezesNew = alsoNew;
    for (const link of this.#links) link.freeze();
  }

  /** What was kept back goes on. */
  thaw(): void {
    this.#freezesNew = false;
    for (const link of this.#links) link.thaw();
  }

  /** Ends all connections, on both sides. */
  cut(): void {
    for (const link of this.#links) link.cut();
  }

  async close(): Promise<void> {
    this.listener.close();
    this.cut();
  }

  #accept(client: net.Socket): void {
    this.accepted++;
    if (this.refuses) {
      client.destroy();
      return;
    }
    const link: Link = new Link(client, net.connect({ ...this.#target, allowHalfOpen: true }), this, () =>
      this.#links.delete(link),
    );
    this.#links.add(link);
    if (this.#freezesNew) link.freeze();
  }
}

/** One connection through the proxy. */
class Link {
  /** What is to be sent, while nothing goes through. */
  readonly #held: (() => void)[] = [];
  readonly #requests = new MessageReader(true);
  readonly #answers = new MessageReader(false);
  /** The text of the unnamed statement. */
  #unnamed = '';
  #statement = '';
  /** What has not been answered yet: one may be sent before the one before it is answered. */
  readonly #asked: string[] = [];
  /** The messages of the answer that is coming in. */
  #answer: Buffer[] = [];
  #rows = 0;
  #tag: string | undefined;
  #isFrozen = false;

  constructor(
    private readonly client: net.Socket,
    private readonly server: net.Socket,
    private readonly proxy: PostgresProxy,
    private readonly ended: () => void,
  ) {
    client.on('data', (bytes) => {
      for (const message of this.#requests.read(bytes)) this.#request(message);
    });
    server.on('data', (bytes) => {
      for (const message of this.#answers.read(bytes)) this.#respond(message);
    });
    for (const [one, other] of [
      [client, server],
      [server, client],
    ] as const) {
      one.on('error', () => {});
      one.on('end', () => this.#forward(() => other.end()));
      one.on('close', () => this.#forward(() => this.cut()));
    }
    client.resume();
  }

  freeze(): void {
    this.#isFrozen = true;
  }

  thaw(): void {
    this.#isFrozen = false;
    for (const go of this.#held.splice(0)) go();
  }

  cut(): void {
    this.client.destroy();
    this.server.destroy();
    this.ended();
  }

  #forward(go: () => void): void {
    if (this.#isFrozen) this.#held.push(go);
    else go();
  }

  #request(message: Message): void {
    if (message.type === 'P') {
      const [name, text] = message.strings();
      if (name === '') this.#unnamed = text!;
    } else if (message.type === 'B') {
      this.#statement = message.strings()[1]!.replace(/_[0-9a-f]{10}$/, '') || this.#unnamed;
    } else if (message.type === 'S') {
      this.#asked.push(this.#statement);
    } else if (message.type === 'Q') {
      this.#asked.push(message.strings()[0]!);
    }
    this.#forward(() => this.server.write(message.bytes));
  }

  #respond(message: Message): void {
    if (message.type === 'A') {
      if (!this.proxy.dropsNotifications) this.#forward(() => this.client.write(message.bytes));
      return;
    }
    this.#answer.push(message.bytes);
    if (message.type === 'D') this.#rows++;
    if (message.type === 'C') this.#tag = message.strings()[0];
    // An answer ends when the server is ready for the next query. What nobody has asked for goes on bit by bit.
    const [statement] = this.#asked;
    if (message.type !== 'Z' && statement !== undefined) return;
    this.#asked.shift();
    const bytes = Buffer.concat(this.#answer.splice(0));
    const verdict =
      statement === undefined ? 'pass' : this.proxy.judge({ statement, rows: this.#rows, tag: this.#tag });
    this.#rows = 0;
    this.#tag = undefined;
    if (verdict === 'cut') {
      this.cut();
      return;
    }
    if (verdict === 'freeze') this.freeze();
    this.#arrive(() => {
      this.client.write(bytes);
      if (statement !== undefined) this.proxy.answered.push(statement);
    });
  }

  #arrive(go: () => void): void {
    if (this.proxy.delay === 0) this.#forward(go);
    else setTimeout(() => this.#forward(go), this.proxy.delay).unref();
  }
}

class Message {
  constructor(
    readonly type: string,
    readonly bytes: Buffer,
  ) {}

  /** What it begins with: strings that end with a zero. */
  strings(): string[] {
    return this.bytes.subarray(5).toString('latin1').split('\0', 2);
  }
}

/** Cuts a stream into messages: a letter (but for the first one of a client) and a length that counts itself. */
class MessageReader {
  #rest = Buffer.alloc(0);

  constructor(private isFirstOfClient: boolean) {}

  *read(bytes: Buffer): Generator<Message> {
    this.#rest = Buffer.concat([this.#rest, bytes]);
    for (;;) {
      const header = this.isFirstOfClient ? 0 : 1;
      if (this.#rest.length < header + 4) return;
      const end = header + this.#rest.readInt32BE(header);
      if (this.#rest.length < end) return;
      const type = this.isFirstOfClient ? '' : String.fromCharCode(this.#rest[0]!);
      this.isFirstOfClient = false;
      const message = new Message(type, this.#rest.subarray(0, end));
      this.#rest = this.#rest.subarray(end);
      yield message;
    }
  }
}

/** Of a URL as `pg` reads it: a folder with a Unix socket is in the parameter `host`. */
function targetOf(serverUrl: string): net.NetConnectOpts {
  const { hostname, port, searchParams } = new URL(serverUrl);
  const folder = searchParams.get('host');
  return folder === null ? { host: hostname, port: Number(port) } : { path: `${folder}/.s.PGSQL.${port}` };
}
