import fc from 'fast-check';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { createTables } from '../support/app.js';
import { createDatabase, type TestDatabase } from '../support/database.js';
import { ATTEMPTS, ModelInstance, type HandlerName, type Start } from './instance.js';

/** What must hold of one call, from what the model has done to it. */
interface ModelCall {
  readonly name: HandlerName;
  readonly identifier: string | null;
  starts: number[];
  isCancelled: boolean;
  /** A handler has completed it, on an instance that lived. */
  hasCompleted: boolean;
}

interface Place {
  id: string;
  place: 'pending' | 'running' | 'outcome';
  attempt: number;
  outcome: string | null;
}

/** The real system: a database and some instances on it. */
class World {
  readonly calls = new Map<string, ModelCall>();
  readonly instances: ModelInstance[] = [];
  readonly dead: { id: number; instance: ModelInstance }[] = [];
  readonly violations: string[] = [];

  constructor(readonly database: TestDatabase) {}

  get alive(): ModelInstance[] {
    return this.instances.filter(({ isAlive }) => isAlive);
  }

  /** One that lives, or undefined: commands do nothing when there is none. */
  one(n: number): ModelInstance | undefined {
    return this.alive[n % Math.max(1, this.alive.length)];
  }

  async addInstance(): Promise<void> {
    this.instances.push(await ModelInstance.start(this.database, (start) => this.hasStarted(start)));
  }

  private hasStarted({ call }: Start): void {
    const known = this.calls.get(call.id);
    if (known === undefined) this.violations.push(`call ${call.id} was never accepted, and has started`);
    else if (known.starts.includes(call.attempt)) {
      this.violations.push(`attempt ${call.attempt} of call ${call.id} has started twice`);
    }
    known?.starts.push(call.attempt);
  }

  /** What a drain cuts off has not spent its attempt, if its handler has several. */
  async drain(instance: ModelInstance): Promise<void> {
    const runs = await this.database.query<{ id: string; attempt: number }>(
      'select id, attempt from future_call_running where instance_id = $1',
      [instance.id],
    );
    await instance.drain();
    for (const { id, attempt } of runs) {
      const call = this.calls.get(id);
      if (call?.name === 'thrice') call.starts = call.starts.filter((start) => start !== attempt);
    }
  }

  places(): Promise<Place[]> {
    return this.database.query<Place & Record<string, unknown>>(`
      select id, 'pending' as place, attempt, null as outcome from future_call
      union all select id, 'running', attempt, null from future_call_running
      union all select call_id, 'outcome', attempt, outcome from future_call_outcome`);
  }

  async check(): Promise<void> {
    expect(this.violations).toEqual([]);
    const places = await this.places();
    const problems = places
      .filter(({ id }) => !this.calls.has(id))
      .map(({ id, place }) => `${place} ${id} is no call`);
    for (const [id, call] of this.calls) {
      const problem = problemOf(
        call,
        places.filter((place) => place.id === id),
      );
      if (problem !== undefined) problems.push(`call ${id} (${JSON.stringify(call)}): ${problem}`);
    }
    expect(problems).toEqual([]);
  }
}

function problemOf(
  { name, starts, isCancelled, hasCompleted }: ModelCall,
  places: Place[],
): string | undefined {
  if (starts.length > ATTEMPTS[name]) return 'started too often';
  if (places.length > 1) return `is in ${places.map(({ place }) => place).join(' and ')}`;
  const [at] = places;
  if (at === undefined) return isCancelled || hasCompleted ? undefined : 'is lost';
  if (isCancelled) return `was cancelled and is ${at.place}`;
  // At-least-once may run again after it has completed: when its instance was taken for dead before that was recorded.
  if (hasCompleted && name === 'once' && at.outcome !== 'completed')
    return `has completed and is ${at.place}`;
  if (at.place === 'pending' && at.attempt === 0 && starts.length > 0)
    return 'has started and is as if it had not';
  if (at.place === 'pending' && name === 'once' && starts.length > 0)
    return 'has started and is pending again';
  return undefined;
}

type Command = fc.AsyncCommand<object, World>;

function command(description: string, run: (world: World) => Promise<unknown>): Command {
  return {
    check: () => true,
    toString: () => description,
    async run(_model, world) {
      await run(world);
      await world.check();
    },
  };
}

const which = fc.nat(3);
const handler = fc.constantFrom<HandlerName>('once', 'thrice');
const label = fc.option(fc.constantFrom('a', 'b'));

const commands = fc.commands(
  [
    fc.tuple(which, handler, label).map(([n, name, identifier]) =>
      command(`schedule ${name} ${identifier ?? ''}`, async (world) => {
        const { id } = (await world.one(n)?.service.callWithDelay(name, null, 0, { identifier })) ?? {};
        if (id !== undefined) {
          world.calls.set(id, { name, identifier, starts: [], isCancelled: false, hasCompleted: false });
        }
      }),
    ),
    fc.tuple(which, fc.constantFrom('a', 'b')).map(([n, identifier]) =>
      command(`cancel ${identifier}`, async (world) => {
        const pending = (await world.places()).filter(({ place }) => place === 'pending');
        const affected = [...world.calls].filter(
          ([id, call]) => call.identifier === identifier && pending.some((place) => place.id === id),
        );
        const count = await world.one(n)?.service.cancel(identifier);
        if (count === undefined) return;
        expect(count).toBe(affected.length);
        for (const [, call] of affected) call.isCancelled = true;
      }),
    ),
    fc
      .tuple(which, fc.integer({ min: 1, max: 5 }))
      .map(([n, limit]) => command(`${n} claims ${limit}`, async (world) => world.one(n)?.claim(limit))),
    which.map((n) =>
      command(`${n} claims, and the answer is lost`, async (world) =>
        world.one(n)?.claim(3, { isLost: true }),
      ),
    ),
    which.map((n) =>
      command(`${n} finishes one`, async (world) => {
        const start = await world.one(n)?.end();
        if (start !== undefined) world.calls.get(start.call.id)!.hasCompleted = true;
      }),
    ),
    which.map((n) => command(`${n} fails one`, async (world) => world.one(n)?.end(new Error('on purpose')))),
    which.map((n) => command(`${n} loses its session`, async (world) => world.one(n)?.reconnect())),
    fc.tuple(which, which).map(([n, other]) =>
      command(`${n} is taken for dead by ${other}`, async (world) => {
        const [one, rescuer] = [world.one(n), world.one(other)];
        if (one !== undefined && rescuer !== undefined && one !== rescuer)
          await one.isTakenForDeadBy(rescuer);
      }),
    ),
    which.map((n) =>
      command(`${n} crashes`, async (world) => {
        const instance = world.one(n);
        if (instance === undefined) return;
        world.dead.push({ id: instance.id, instance });
        await instance.crash();
      }),
    ),
    which.map((n) =>
      command(`${n} rescues the dead`, async (world) => {
        const rescuer = world.one(n);
        if (rescuer === undefined) return;
        for (const { id } of world.dead.splice(0)) expect(await rescuer.rescue(id)).toBe(true);
      }),
    ),
    fc.tuple(which, which).map(([n, other]) =>
      command(`${n} tries to rescue ${other}, who lives`, async (world) => {
        const [rescuer, victim] = [world.one(n), world.one(other)];
        // A session may take a lock that it holds itself: an instance never asks for its own.
        if (rescuer !== undefined && victim !== undefined && rescuer !== victim) {
          expect(await rescuer.rescue(victim.id)).toBe(false);
        }
      }),
    ),
    which.map((n) =>
      command(`${n} drains`, async (world) => {
        const instance = world.one(n);
        if (instance !== undefined) await world.drain(instance);
      }),
    ),
    fc.constant(
      command('a new instance starts', async (world) =>
        world.alive.length < 3 ? world.addInstance() : undefined,
      ),
    ),
  ],
  { maxCommands: 40, size: 'max', replayPath: process.env.MODEL_REPLAY },
);

/** Everything has to end in an outcome once there is an instance that works. */
async function finishEverything(world: World): Promise<void> {
  await world.addInstance();
  const last = world.instances.at(-1)!;
  for (const { id } of world.dead) await last.rescue(id);
  for (const instance of world.alive) if (instance !== last) await world.drain(instance);
  for (;;) {
    await world.database.query('update future_call set due_at = now() where due_at > now()');
    await last.claim(5);
    if (last.running.length === 0) break;
    while (last.running.length > 0) {
      const start = await last.end();
      world.calls.get(start!.call.id)!.hasCompleted = true;
    }
  }
  await world.check();
  const unfinished = (await world.places()).filter(({ place }) => place !== 'outcome');
  expect(unfinished).toEqual([]);
}

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
  await createTables(database);
});
afterAll(() => database.drop());

/** To replay a failure, set these to the `seed`, `path` and `replayPath` of its message. */
const { MODEL_SEED: seed, MODEL_PATH: path, MODEL_RUNS: runs } = process.env;

it('whatever happens in whatever order: a call starts at most once an attempt, is in one place, and ends in an outcome', async () => {
  await fc.assert(
    fc.asyncProperty(commands, async (given) => {
      await database.query(
        'truncate future_call, future_call_running, future_call_outcome, future_call_instance',
      );
      const world = new World(database);
      try {
        await world.addInstance();
        await world.addInstance();
        await fc.asyncModelRun(() => ({ model: {}, real: world }), given);
        await finishEverything(world);
      } finally {
        await Promise.all(world.alive.map((instance) => instance.drain()));
        await Promise.all(world.instances.map((instance) => instance.dispose()));
      }
    }),
    {
      numRuns: Number(runs ?? 25),
      // A failure is shrunk for so long, and then told. On a slow machine there are fewer runs, unless somebody asks for more.
      ...(runs === undefined && { interruptAfterTimeLimit: 240_000 }),
      ...(seed && { seed: Number(seed) }),
      ...(path && { path, endOnFailure: true }),
    },
  );
});
