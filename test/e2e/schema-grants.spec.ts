import pg from 'pg';
import { beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { FutureCall, type FutureCallHandler, type FutureCallModuleOptions } from '../../lib/index.js';
import { futureCallTables, type FutureCallTables } from '../../lib/tables/future-call.tables.js';
import { FutureCallClock } from '../../lib/store/future-call.clock.js';
import { dueStatements } from '../../lib/store/future-call.due-sql.js';
import { engineStatements } from '../../lib/store/future-call.engine-sql.js';
import { serviceStatements } from '../../lib/store/future-call.service-sql.js';
import { bootApp } from '../support/app.js';
import { createDatabase, type TestDatabase } from '../support/database.js';
import { createRole, isSuperuser, type TestRole } from '../support/role.js';
import { until } from '../support/until.js';

/**
 * What a role needs with migrate: false, beside CONNECT on the database and USAGE on the schema. The documentation
 * lists the same.
 */
const GRANTS = {
  /** For an app that runs calls. */
  execute: [
    'select, insert, update, delete on future_call',
    'select, insert, update, delete on future_call_running',
    'select, insert, update, delete on future_call_outcome',
    'select, insert, update, delete on future_call_instance',
    'usage on sequence future_call_instance_id_seq',
  ],
  /** For one that only schedules and cancels (execute: false). */
  schedule: ['select, insert, delete on future_call', 'select on future_call_instance'],
  /** The same, where `retention` keeps what was cancelled. */
  scheduleAndKeep: [
    'select, insert, delete on future_call',
    'select on future_call_instance',
    'select, insert, update on future_call_outcome',
  ],
} as const;
type Use = keyof typeof GRANTS;

const OPTIONS: Record<Use, FutureCallModuleOptions> = {
  execute: { migrate: false, rescueAfter: 500 },
  schedule: { migrate: false, execute: false },
  scheduleAndKeep: { migrate: false, execute: false, retention: { cancelled: true } },
};

/** The statements that each of them runs. */
function statementsOf(use: Use, tables: FutureCallTables): Record<string, string> {
  const { cancelAndKeep, ...service } = serviceStatements(tables, new FutureCallClock());
  const { listen: _listen, ...engine } = engineStatements(tables, new FutureCallClock());
  const all = {
    ...service,
    ...(use !== 'schedule' && { cancelAndKeep }),
    ...(use === 'execute' && { ...engine, ...dueStatements(tables, new FutureCallClock()) }),
  };
  return Object.fromEntries(Object.entries(all).map(([name, { text }]) => [name, text]));
}

/** One privilege on one object each. */
const singlePrivileges = (use: Use) =>
  GRANTS[use].flatMap((grant) => {
    const [privileges, object] = grant.split(' on ') as [string, string];
    return privileges.split(', ').map((privilege) => `${privilege} on ${object}`);
  });

let database: TestDatabase;
let tables: FutureCallTables;
let role: TestRole;
beforeEach(async ({ skip }) => {
  database = await createDatabase();
  onTestFinished(() => database.drop());
  skip(!(await isSuperuser(database)), 'needs a superuser');
  role = await createRole(database);
  const owner = await bootApp(database, { options: { execute: false }, typeorm: { schema: 'calls' } });
  tables = futureCallTables(owner.dataSource);
  await owner.close();
  await database.query(`grant usage on schema calls to "${role.name}"`);
});

async function change(command: 'grant' | 'revoke', privilege: string): Promise<void> {
  const qualified = privilege.replace(/\w+$/, 'calls.$&');
  await database.query(`${command} ${qualified} ${command === 'grant' ? 'to' : 'from'} "${role.name}"`);
}

/** Which of the statements the role may not run. Planning one checks the rights and runs nothing. */
async function forbidden(use: Use): Promise<string[]> {
  const client = new pg.Client(role.url);
  await client.connect();
  onTestFinished(() => client.end());
  // A plan for these values, nulls, would leave out what they make superfluous.
  await client.query('set plan_cache_mode = force_generic_plan');
  const names: string[] = [];
  for (const [name, text] of Object.entries(statementsOf(use, tables))) {
    try {
      await client.query(`prepare ${name} as ${text}`);
      const { rows } = await client.query<{ count: number }>(
        'select cardinality(parameter_types) as count from pg_prepared_statements where name = $1',
        [name.toLowerCase()],
      );
      const values = Array.from({ length: rows[0]!.count }, () => 'null').join(', ');
      // nextval() checks when it is called.
      const how = name === 'newInstanceId' ? '' : 'explain';
      await client.query(`${how} execute ${name}${values && `(${values})`}`);
    } catch (error) {
      if ((error as { code?: string }).code !== '42501') throw error;
      names.push(name);
    }
  }
  return names;
}

describe.each(Object.keys(GRANTS) as Use[])('the rights to %s', (use) => {
  beforeEach(async () => {
    for (const privilege of singlePrivileges(use)) await change('grant', privilege);
  });

  it('are enough for every statement, and each of them is needed', async () => {
    expect(await forbidden(use)).toEqual([]);
    for (const privilege of singlePrivileges(use)) {
      await change('revoke', privilege);
      expect(await forbidden(use), privilege).not.toEqual([]);
      await change('grant', privilege);
    }
  });

  it('are enough for an app', async () => {
    // An instance that died with a call.
    await database.query(`
      insert into calls.future_call_instance (id, host, pid, poll_interval, handlers) values (77, 'gone', 1, 1000, '{}');
      insert into calls.future_call_running (id, name, due_at, attempt, created_at, instance_id, claim)
        values (1000, 'call', now(), 1, now(), 77, 1)`);

    @FutureCall('call', { attempts: 2, backoff: { type: 'fixed', delay: 1 } })
    class Call implements FutureCallHandler {
      invoke() {
        throw new Error('on purpose');
      }
    }
    const { service, close } = await bootApp(database, {
      providers: use === 'execute' ? [Call] : [],
      options: OPTIONS[use],
      typeorm: { url: role.url, schema: 'calls' },
    });
    await service.callWithDelay('call', null, 0);
    await service.callWithDelay('call', null, '1h', { identifier: 'x' });
    expect(await service.cancel('x')).toBe(1);

    const expected = {
      execute: ['failed', 'interrupted'],
      schedule: [],
      scheduleAndKeep: ['cancelled'],
    }[use];
    await until(async () => {
      const outcomes = await database.query<{ outcome: string }>(
        'select outcome from calls.future_call_outcome order by outcome',
      );
      return outcomes.map(({ outcome }) => outcome).join() === expected.join();
    }, `outcomes ${expected.join()}`);
    await close();
    const pending = await database.query('select name from calls.future_call');
    expect(pending).toHaveLength(use === 'execute' ? 0 : 1);
  });
});
