import * as fs from 'node:fs';
import path from 'node:path';
import vm from 'node:vm';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import {
  FutureCall,
  FutureCallControl,
  FutureCallDataError,
  FutureCallHandlerError,
  FutureCallOptionsError,
  FutureCallSchemaError,
  FutureCallSessionError,
  FutureCallTimeError,
  RetryError,
  UnknownFutureCallError,
  type Delay,
  type FutureCallHandler,
  type FutureCallHandlerOptions,
  type FutureCallModuleOptions,
  type RunDueOptions,
} from '../../lib/index.js';
import { bootApp, createTables } from '../support/app.js';
import { createDatabase, type TestDatabase } from '../support/database.js';
import { ROOT, table } from '../support/docs.js';
import { until } from '../support/until.js';

const ERRORS = {
  FutureCallDataError,
  FutureCallHandlerError,
  FutureCallOptionsError,
  FutureCallSchemaError,
  FutureCallSessionError,
  FutureCallTimeError,
  UnknownFutureCallError,
};

const PAGE = 'docs/bad-input.md';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
  await createTables(database);
});
beforeEach(() => database.query('truncate future_call, future_call_outcome'));
afterAll(() => database.drop());

/** What the page's expressions may name. */
const NAMED = {
  get circular() {
    const value: { self?: object } = {};
    value.self = value;
    return value;
  },
  get nested() {
    let value: object = {};
    for (let i = 0; i < 100_000; i++) value = { value };
    return value;
  },
  get ownCause() {
    const error = new Error('round');
    error.cause = error;
    return error;
  },
  get foreign() {
    return vm.runInNewContext(`new TypeError('of another realm')`) as unknown;
  },
  get unreadable() {
    return Object.defineProperty(new Error(), 'message', {
      get() {
        throw new Error('a getter');
      },
    });
  },
};

function evaluate(cell: string): unknown {
  const code = /^`(.*)`$/.exec(cell)?.[1] ?? '';
  // The page is ours.
  // oxlint-disable-next-line no-implied-eval, no-new-func
  return new Function('named', `with (named) { return (${code}) }`)(NAMED);
}

/** An error class and what its message says, or undefined when nothing is thrown. */
function refusal(cell: string) {
  const [, name, message] = /^`(\w+Error)`: (.*)$/.exec(cell) ?? [];
  return name === undefined ? undefined : { type: ERRORS[name as keyof typeof ERRORS], message: message! };
}

const rows = (heading: string) => table(PAGE, heading).map(([given, answer]) => [given!, answer!] as const);

async function expectAnswer(work: () => Promise<unknown>, answer: string) {
  const refused = refusal(answer);
  if (refused === undefined) return work();
  await expect(work()).rejects.toThrow(refused.message);
  await expect(work()).rejects.toBeInstanceOf(refused.type);
  expect(await database.query('select from future_call')).toEqual([]);
  return undefined;
}

/** A handler that is named so, and tells of its first call. */
function handlerNamed(name: unknown, options?: unknown) {
  let ran!: (data: unknown) => void;
  const data = new Promise((resolve) => (ran = resolve));

  @FutureCall(name as string, options as FutureCallHandlerOptions)
  class Named implements FutureCallHandler {
    invoke(given: unknown) {
      ran(given);
    }
  }
  return { Named, data };
}

/** The code of lib/, with each message in one piece. */
const messages = fs
  .readdirSync(path.join(ROOT, 'lib'), { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts'))
  .map((file) => fs.readFileSync(path.join(ROOT, 'lib', file), 'utf8').replaceAll(/[`'] \+\s+[`']/g, ''))
  .join('\n');

const boot = () => bootApp(database, { options: { execute: false } });

describe('the page about bad input', () => {
  it.each(rows('Data'))('says of the data %s: %s', async (given, answer) => {
    const { service } = await boot();
    const data = evaluate(given);
    await expectAnswer(() => service.callWithDelay('x', data, '1h'), answer);
    const json = /^stored: `(.*)`$/.exec(answer)?.[1];
    if (json === undefined) return;
    expect(await database.query('select data from future_call')).toEqual([
      { data: JSON.parse(json) as unknown },
    ]);
  });

  it.each(rows('Times'))('says of the time %s: %s', async (given, answer) => {
    const { service } = await boot();
    const when = evaluate(given);
    await expectAnswer(
      () =>
        when instanceof Date
          ? service.callAtTime('x', null, when)
          : service.callWithDelay('x', null, when as Delay),
      answer,
    );
    const [row] = await database.query<{ due: boolean }>(
      'select due_at <= clock_timestamp() as due from future_call',
    );
    expect(row?.due).toBe({ 'due at once': true, 'due then': false }[answer]);
  });

  it.each(rows('Calls of callMany'))('says of the call %s: %s', async (given, answer) => {
    const { service } = await boot();
    expect(refusal(answer)).toBeDefined();
    await expectAnswer(() => service.callMany([evaluate(given) as { handler: 'x'; delay: 0 }]), answer);
  });

  it.each(rows('RetryError'))('says of RetryError given %s: %s', async (given, answer) => {
    const error = await expectAnswer(
      async () => new RetryError(evaluate(given) as { delay: Delay & number }),
      answer,
    );
    expect((error as RetryError | undefined)?.delay).toBe(refusal(answer) ? undefined : 0);
  });

  it.each(rows('Identifiers'))('says of the identifier %s: %s', async (given, answer) => {
    const { service } = await boot();
    const identifier = evaluate(given) as string;
    await expectAnswer(() => service.callWithDelay('x', null, '1h', { identifier }), answer);
    if (refusal(answer)) return;
    expect(await database.query('select identifier from future_call')).toEqual([{ identifier }]);
  });

  it.each(rows('Names'))('says of the name %s: %s', async (given, answer) => {
    const name = evaluate(given) as string;
    const named = await expectAnswer(async () => handlerNamed(name), answer);
    if (refusal(answer)) return;
    const { Named, data } = named as ReturnType<typeof handlerNamed>;
    const { service } = await bootApp(database, { providers: [Named] });
    await service.callWithDelay(name, 'by its name', 0);
    expect(await data).toBe('by its name');
  });

  it.each(rows('Options of the module'))('says of the options %s: %s', async (given, answer) => {
    const options = evaluate(given) as FutureCallModuleOptions;
    const booted = await expectAnswer(() => bootApp(database, { options }), answer);
    expect(booted === undefined).toBe(refusal(answer) !== undefined);
  });

  it.each(rows('Options of runDue'))('says of the options of runDue %s: %s', async (given, answer) => {
    const { app } = await bootApp(database, { options: { execute: 'manual' } });
    const control = app.get(FutureCallControl);
    await expectAnswer(() => control.runDue(evaluate(given) as RunDueOptions), answer);
  });

  it.each(rows('Options of a handler'))("says of a handler's options %s: %s", async (given, answer) => {
    expect(refusal(answer)).toBeDefined();
    await expectAnswer(async () => handlerNamed('x', evaluate(given)), answer);
  });

  it.each(rows('The data source and its database').filter(([, answer]) => refusal(answer)))(
    'says of a data source (%s) what is said',
    (_what, answer) => {
      // Where it is tested, there is a data source that is so.
      expect(messages).toContain(refusal(answer)!.message);
    },
  );

  it('says of each thing that a handler may throw what is kept of it', async () => {
    const thrown = rows('What a handler throws');
    @FutureCall('throws')
    class Throws {
      invoke(n: number) {
        throw evaluate(thrown[n]![0]);
      }
    }
    const { service } = await bootApp(database, { providers: [Throws] });
    await service.callMany(thrown.map((_, n) => ({ handler: Throws, data: n, delay: 0 })));
    const kept = await until(async () => {
      const outcomes = await database.query<{ name: string; message: string; size: number }>(
        `select errors->0->>'name' as name, errors->0->>'message' as message, length(errors::text) as size
         from future_call_outcome order by data`,
      );
      return outcomes.length === thrown.length && outcomes;
    }, 'all have failed');
    for (const [n, [, answer]] of thrown.entries()) {
      const [, name, message] = /^`(\w+)`: (.*)$/.exec(answer)!;
      expect(kept[n]).toMatchObject({ name, message: expect.stringContaining(message!) });
      expect(kept[n]!.size).toBeLessThan(70_000);
    }
  });
});
