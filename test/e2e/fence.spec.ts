import { beforeAll, beforeEach, afterAll, describe, expect, it } from 'vitest';
import type { ClaimedCall } from '../../lib/store/future-call.claim-store.js';
import { FutureCallEndingStore } from '../../lib/store/future-call.ending-store.js';
import { bootApp, createTables } from '../support/app.js';
import { engineOf } from '../support/engine.js';
import { createDatabase, type TestDatabase } from '../support/database.js';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
  await createTables(database);
});
beforeEach(() => database.query('truncate future_call, future_call_running, future_call_outcome'));
afterAll(() => database.drop());

/** What the running call is known by, and what others may take for it. */
const TOKEN = { instanceId: 7, claim: 3 };
const STRANGERS = {
  'another instance': { ...TOKEN, instanceId: 8 },
  'another claim of the same instance': { ...TOKEN, claim: 4 },
};

const call = (token: typeof TOKEN): ClaimedCall => ({
  id: '1',
  ...token,
  name: 'call',
  identifier: null,
  data: null,
  dueAt: '2026-01-01 00:00:00+00',
  attempt: 1,
});
const error = JSON.stringify({ attempt: 1, name: 'Error', message: 'no' });

const ENDS: [what: string, end: (store: FutureCallEndingStore, call: ClaimedCall) => Promise<unknown>][] = [
  ['complete', (store, one) => store.complete([{ call: one, error: null }])],
  ['fail', (store, one) => store.fail([{ call: one, error }])],
  ['be tried again', (store, one) => store.retry([{ call: one, error, next: { delay: 0 } }])],
  ['be given back', (store, one) => store.release([one])],
];

/** The store of an instance that looks after nobody meanwhile, and has no handlers. */
async function bootStore(completed: boolean): Promise<FutureCallEndingStore> {
  const options = { rescueAfter: '5m', pollInterval: '1h', retention: { completed } };
  const { app } = await bootApp(database, { options });
  return engineOf(app).endings;
}

const everything = () =>
  database.query(`
    select 'pending' as place, id, attempt, errors::text from future_call union all
    select 'running', id, attempt, errors::text from future_call_running union all
    select outcome, call_id, attempt, errors::text from future_call_outcome`);

describe.each([true, false])('a call that runs (completed ones are kept: %s)', (completed) => {
  it.each(ENDS)('can %s by the token of its claim alone', async (_what, end) => {
    const store = await bootStore(completed);
    await database.query(
      `insert into future_call_running (id, name, due_at, attempt, created_at, instance_id, claim)
       values (1, 'call', now(), 1, now(), ${TOKEN.instanceId}, ${TOKEN.claim})`,
    );
    const before = await everything();
    expect(before).toMatchObject([{ place: 'running' }]);
    for (const stranger of Object.values(STRANGERS)) {
      await end(store, call(stranger));
      expect(await everything()).toEqual(before);
    }
    await end(store, call(TOKEN));
    expect(await everything()).not.toEqual(before);
    expect(await database.query('select from future_call_running')).toEqual([]);
  });
});

it.each(ENDS.slice(0, 2))(
  'an outcome that was a guess: the call did %s, but only who had that claim can say so',
  async (_what, end) => {
    const store = await bootStore(true);
    await database.query(
      `insert into future_call_outcome (call_id, name, due_at, attempt, outcome, errors, created_at, instance_id, claim)
       values (1, 'call', now(), 1, 'interrupted', '[{"name": "Interrupted"}]', now(), ${TOKEN.instanceId}, ${TOKEN.claim})`,
    );
    const before = await everything();
    for (const stranger of Object.values(STRANGERS)) {
      await end(store, call(stranger));
      expect(await everything()).toEqual(before);
    }
    await end(store, call(TOKEN));
    expect(await everything()).not.toMatchObject([{ place: 'interrupted' }]);
    // What is known for sure stays.
    const sure = await everything();
    await end(store, call(TOKEN));
    expect(await everything()).toEqual(sure);
  },
);
