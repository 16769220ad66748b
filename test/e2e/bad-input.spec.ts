import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import {
  FutureCall,
  FutureCallDataError,
  FutureCallOptionsError,
  FutureCallTimeError,
  type Delay,
} from '../../lib/index.js';
import { bootApp, createTables } from '../support/app.js';
import { createDatabase, type TestDatabase } from '../support/database.js';
import { table } from '../support/docs.js';
import { until } from '../support/until.js';

const ERRORS = { FutureCallDataError, FutureCallOptionsError, FutureCallTimeError };

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

async function expectAnswer(schedule: () => Promise<unknown>, answer: string) {
  const refused = refusal(answer);
  if (refused === undefined) return schedule();
  await expect(schedule()).rejects.toThrow(refused.message);
  await expect(schedule()).rejects.toBeInstanceOf(refused.type);
  expect(await database.query('select from future_call')).toEqual([]);
  return undefined;
}

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

  it.each(rows('Identifiers'))('says of the identifier %s: %s', async (given, answer) => {
    const { service } = await boot();
    const identifier = evaluate(given) as string;
    await expectAnswer(() => service.callWithDelay('x', null, '1h', { identifier }), answer);
    if (refusal(answer)) return;
    expect(await database.query('select identifier from future_call')).toEqual([{ identifier }]);
  });

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
