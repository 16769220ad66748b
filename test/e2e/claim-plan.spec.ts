import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { futureCallTables } from '../../lib/tables/future-call.tables.js';
import { FutureCallConnection } from '../../lib/store/future-call.connection.js';
import { configureSession } from '../../lib/store/future-call.session-settings.js';
import { FutureCallClock } from '../../lib/store/future-call.clock.js';
import { engineStatements } from '../../lib/store/future-call.engine-sql.js';
import { bootApp } from '../support/app.js';
import { createDatabase, type TestDatabase } from '../support/database.js';

interface PlanNode {
  'Node Type': string;
  'Relation Name'?: string;
  'Index Name'?: string;
  'Shared Hit Blocks': number;
  'Shared Read Blocks': number;
  'Actual Rows': number;
  Plans?: PlanNode[];
}

let database: TestDatabase;
let connection: FutureCallConnection;
let statements: ReturnType<typeof engineStatements>;
let pid: string;
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(async () => {
  await connection.close();
  await database.drop();
});

const START = { dueAt: '-infinity', id: '0' };

/** Claims inside a transaction that is rolled back, and answers with the plan. */
async function explainClaim({ free = 1, since = START, nextFrom = 0 } = {}) {
  const values = `'{claimed}', '{${free}}', '{${since.dueAt}}', '{${since.id}}', '{${nextFrom}}', ${free}, 1, 1, ${pid}, 11000, ${free <= 100}`;
  await connection.query({ text: 'begin' });
  const { rows } = await connection.query({
    text: `explain (analyze, buffers, format json) execute claim (${values})`,
  });
  await connection.query({ text: 'rollback' });
  const [{ Plan: plan }] = JSON.parse(rows[0]![0]!) as [{ Plan: PlanNode }];
  return plan;
}

function expectOnly(allowed: string[], access: string[]) {
  expect(access).not.toEqual([]);
  expect(allowed).toEqual(expect.arrayContaining(access));
}

function nodes(plan: PlanNode): PlanNode[] {
  return [plan, ...(plan.Plans ?? []).flatMap(nodes)];
}

const buffers = (plan: PlanNode) => plan['Shared Hit Blocks'] + plan['Shared Read Blocks'];

/** Every way in which a claim reads the pending calls. */
const accessTo = (plan: PlanNode, relation: string) =>
  nodes(plan)
    .filter((node) => node['Relation Name'] === relation && /Scan/.test(node['Node Type']))
    .map((node) => `${node['Node Type']} ${node['Index Name'] ?? ''}`.trim());

/** By due time, and by the key to delete what was found. */
async function allowedScans() {
  const rows = await database.query<{ indexname: string; indexdef: string }>(
    `select indexname, indexdef from pg_indexes where tablename = 'future_call'`,
  );
  const named = (columns: string) => rows.find(({ indexdef }) => indexdef.endsWith(columns))!.indexname;
  const due = named('(name, due_at, id)');
  return [`Index Scan ${due}`, `Index Only Scan ${due}`, `Index Scan ${named('(id)')}`];
}

describe('the claim', () => {
  it('walks the one index, on an empty and on a never analyzed table', async () => {
    const { dataSource } = await bootApp(database);
    await database.query('alter table future_call set (autovacuum_enabled = false)');
    connection = await FutureCallConnection.open(dataSource, { applicationName: 'plan' });
    // Who looks so rarely may be idle for longer than the inserts below take.
    await configureSession(connection, 300_000);
    pid = String(connection.announcedPid);
    statements = engineStatements(futureCallTables(dataSource), new FutureCallClock());
    const { text } = statements.claim;
    await connection.query({
      text: `prepare claim (text[], int[], timestamptz[], bigint[], float8[], int, int, int, int, float8, boolean) as ${text}`,
    });
    const allowed = await allowedScans();
    for (const plan of [await explainClaim(), await explainClaim({ free: 2_000 })]) {
      expectOnly(allowed, accessTo(plan, 'future_call'));
    }

    await database.query(
      `insert into future_call (name, due_at) select 'claimed', now() - n * interval '1 ms' from generate_series(1, 100000) n`,
    );
    const plan = await explainClaim({ free: 2_000 });
    expectOnly(allowed, accessTo(plan, 'future_call'));
    expect(nodes(plan).map((node) => node['Node Type'])).not.toContain('Sort');
  });

  it('with 1,000,000 rows reads as much as with 100,000', async () => {
    const small = buffers(await explainClaim({ free: 10 }));
    await database.query(
      `insert into future_call (name, due_at)
       select case n % 2 when 0 then 'claimed' else 'other' end, now() + n * interval '1 s' from generate_series(1, 900000) n`,
    );
    const allowed = await allowedScans();
    const plan = await explainClaim({ free: 10 });
    expectOnly(allowed, accessTo(plan, 'future_call'));
    // One more level of the tree here and there.
    expect(buffers(plan)).toBeLessThan(2 * small);
  });

  it('behind its watermark reads no more when 100,000 claimed calls of the same instant are dead but not vacuumed', async () => {
    await database.query('truncate future_call, future_call_running');
    await database.query(
      `insert into future_call (name, due_at) select 'claimed', '2026-01-01' from generate_series(1, 200)`,
    );
    const [first] = await database.query<{ id: string }>('select min(id) as id from future_call');
    const since = { dueAt: '2026-01-01 00:00:00+00', id: String(Number(first!.id) - 1) };
    const before = buffers(await explainClaim({ free: 100, since }));

    await database.query('truncate future_call, future_call_running');
    // A transaction that is older than the dead rows keeps them from being removed.
    const old = await database.pool.connect();
    try {
      await old.query('begin isolation level repeatable read');
      await old.query('select 1 from future_call');
      await database.query(
        `insert into future_call (name, due_at) select 'claimed', '2026-01-01' from generate_series(1, 100000)`,
      );
      const [last] = await database.query<{ id: string }>('select max(id) as id from future_call');
      await database.query('delete from future_call');
      await database.query(
        `insert into future_call (name, due_at) select 'claimed', '2026-01-01' from generate_series(1, 200)`,
      );
      const after = buffers(
        await explainClaim({ free: 100, since: { dueAt: '2026-01-01 00:00:00+00', id: last!.id } }),
      );
      const fromTheStart = buffers(await explainClaim({ free: 100 }));
      expect(after).toBeLessThan(before + 50);
      // What the watermark saves: without it, the claim walks over all of them.
      expect(fromTheStart).toBeGreaterThan(before + 500);
    } finally {
      await old.query('rollback');
      old.release();
    }
  });

  it.each([
    ['far ahead', '3 days', 0],
    ['before the next poll, once it has looked there', '5 s', 10_000],
  ])('walks over no calls that were cancelled %s, under a held snapshot', async (_when, due, known) => {
    await database.query('truncate future_call, future_call_running');
    const nextFrom = Date.now() + known;
    const before = buffers(await explainClaim({ nextFrom }));
    const old = await database.pool.connect();
    try {
      await old.query('begin isolation level repeatable read');
      await old.query('select 1 from future_call');
      await database.query(
        `insert into future_call (name, due_at) select 'claimed', now() + $1::interval from generate_series(1, 50000)`,
        [due],
      );
      await database.query('delete from future_call');
      expect(buffers(await explainClaim({ nextFrom }))).toBeLessThan(before + 10);
    } finally {
      await old.query('rollback');
      old.release();
    }
  });

  it('locks nothing that it does not claim', async () => {
    await database.query('truncate future_call');
    await database.query(
      `insert into future_call (name, due_at) select 'h' || n % 3, now() from generate_series(1, 300) n`,
    );
    await connection.query({ text: 'begin' });
    const { rows } = await connection.query({
      text: `execute claim ('{h0,h1,h2}', '{40,40,40}', '{-infinity,-infinity,-infinity}', '{0,0,0}', '{0,0,0}', 50, 1, 1, ${pid}, 11000, true)`,
    });
    const claimed = rows.filter(([id]) => id !== null).length;
    const free = await database.query('select id from future_call for update skip locked');
    await connection.query({ text: 'rollback' });
    expect(claimed).toBe(50);
    expect(free.length).toBe(300 - claimed);
  });
});

describe('ending calls', () => {
  /** By the tokens' ids at once, with a hash table of the tokens. */
  const all = { 'Index Cond': '(id = ANY ($1))', Filter: expect.stringContaining('hashed SubPlan') };
  /** A probe for each token. */
  const each = { 'Index Cond': expect.stringContaining('token.id') };
  /** What was found and locked before. */
  const found = {
    'Index Cond': expect.stringMatching(/free\.(call_)?id|id = ANY \(.*InitPlan|id = ANY \(\$\d+\)/),
  };
  it.each([
    ['complete', [all]],
    ['completeAndKeep', [all]],
    ['completeUnlocked', [all, found]],
    ['completeUnlockedAndKeep', [all, found]],
    ['release', [all, found, all]],
    ['fail', [each, found]],
    ['retry', [each, found]],
    ['correct', [each, found]],
    ['whereabouts', [each, each]],
  ] as const)(
    '(%s) takes the key, also when the plan was made for an empty and analyzed table',
    async (name, how) => {
      await database.query('truncate future_call_running, future_call_outcome');
      await database.query('vacuum analyze future_call_running, future_call_outcome');
      const { text } = statements[name];
      const places = Math.max(...[...text.matchAll(/\$(\d+)/g)].map(([, n]) => Number(n)));
      await connection.query({ text: `prepare ${name} as ${text}` });
      const nulls = Array.from({ length: places }, () => 'null').join();
      const { rows } = await connection.query({ text: `explain (format json) execute ${name} (${nulls})` });
      const [{ Plan: plan }] = JSON.parse(rows[0]![0]!) as [{ Plan: PlanNode }];
      const scans = nodes(plan).filter(
        (node) =>
          /future_call_(running|outcome)/.test(node['Relation Name'] ?? '') && /Scan/.test(node['Node Type']),
      );
      const byKey = {
        'Node Type': expect.stringMatching(/^Index (Only )?Scan$/),
        'Index Name': expect.stringMatching(/^PK_/),
      };
      const expected = how.map((cond) => expect.objectContaining({ ...byKey, ...cond }));
      expect(scans).toHaveLength(expected.length);
      expect(scans).toEqual(expect.arrayContaining(expected));
    },
  );
});
