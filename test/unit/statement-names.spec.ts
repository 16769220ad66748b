import { expect, it } from 'vitest';
import { FutureCallClock } from '../../lib/store/future-call.clock.js';
import { dueStatements } from '../../lib/store/future-call.due-sql.js';
import { engineStatements } from '../../lib/store/future-call.engine-sql.js';
import { serviceStatements } from '../../lib/store/future-call.service-sql.js';
import { FutureCallStatementNames } from '../../lib/store/future-call.statement-names.js';
import type { FutureCallTables } from '../../lib/tables/future-call.tables.js';

/** PostgreSQL cuts off what is longer, and two names that differ behind it are one. */
const LONGEST = 63;

const REFUSED = { code: '0A000', routine: 'RevalidateCachedQuery' };
const table = (name: string) => ({ name, path: `"a schema"."${name}"` });
const tables = {
  schema: 'a schema',
  pending: table('future_call'),
  running: table('future_call_running'),
  outcome: table('future_call_outcome'),
  instance: table('future_call_instance'),
} as unknown as FutureCallTables;

it('the names of statements are short enough, with a generation too', () => {
  const clock = new FutureCallClock();
  const statements: object[] = [serviceStatements, engineStatements, dueStatements].flatMap((build) =>
    Object.values<object>(build(tables, clock)),
  );
  const named = statements.flatMap((statement) =>
    'name' in statement && 'text' in statement ? [String(statement.name)] : [],
  );
  expect(named.length).toBeGreaterThan(10);
  expect(new Set(named).size).toBe(named.length);
  expect(named.filter((name) => `${name}_${2 ** 31}`.length > LONGEST)).toEqual([]);
});

it('of several refusals of one generation the first one begins another', () => {
  const names = new FutureCallStatementNames();
  expect(names.present('claim')).toBe('claim');
  expect([1, 2, 3].map(() => names.isOutdated(REFUSED, 'claim', 'claim'))).toEqual([true, true, true]);
  expect(names.isOutdated(REFUSED, 'look', 'look')).toBe(true);
  expect(names.present('claim')).toBe('claim_1');
  expect(names.isOutdated(REFUSED, 'claim', 'claim_1')).toBe(true);
  expect(names.present('claim')).toBe('claim_2');
});

it('what is refused for another reason, or has no name, begins none', () => {
  const names = new FutureCallStatementNames();
  // A trigger of the user's may raise the same SQLSTATE.
  expect(names.isOutdated({ ...REFUSED, routine: 'exec_stmt_raise' }, 'claim', 'claim')).toBe(false);
  expect(names.isOutdated({ ...REFUSED, code: '42501' }, 'claim', 'claim')).toBe(false);
  expect(names.isOutdated(REFUSED, undefined, undefined)).toBe(false);
  expect(names.isOutdated(undefined, 'claim', 'claim')).toBe(false);
  expect(names.present('claim')).toBe('claim');
});
