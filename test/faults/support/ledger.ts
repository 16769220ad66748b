import { expect } from 'vitest';
import type { TestDatabase } from '../../support/database.js';

/** What was accepted, and what has started: written by the handlers themselves, over the app's own pool. */
export const LEDGER = `
  create table accepted (call_id bigint primary key);
  create table started (
    start uuid primary key, call_id bigint not null, name text not null, attempt int not null, pid int not null,
    at timestamptz not null default clock_timestamp())`;

/** No call was started twice; one whose handler (`again`) allows several attempts, not twice in the same attempt. */
export async function expectAtMostOnce(database: TestDatabase): Promise<void> {
  const twice = await database.query(
    `select call_id, name, array_agg(attempt order by at) as attempts, array_agg(pid order by at) as pids
     from started group by call_id, name, case when name = 'again' then attempt end having count(*) > 1`,
  );
  expect(twice, 'calls that were started twice').toEqual([]);
}

/** Every call that was accepted is pending, running or has an outcome: in one place. And no other call is anywhere. */
export async function expectNothingLost(database: TestDatabase): Promise<void> {
  const wrong = await database.query(
    `select coalesce(accepted.call_id, found.call_id) as call_id, array_agg(found.place) as places
     from accepted full join (
       select id, 'pending' from future_call union all
       select id, 'running' from future_call_running union all
       select call_id, 'outcome' from future_call_outcome
     ) found (call_id, place) on found.call_id = accepted.call_id
     group by 1 having count(found.place) <> 1 or count(accepted.call_id) = 0`,
  );
  expect(wrong, 'calls that are nowhere, in two places, or that nobody scheduled').toEqual([]);
}
