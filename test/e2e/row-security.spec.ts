import { beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import {
  FutureCall,
  FutureCallControl,
  FutureCallSchemaError,
  type FutureCallModuleOptions,
} from '../../lib/index.js';
import { bootApp, createTables } from '../support/app.js';
import { createDatabase, type TestDatabase } from '../support/database.js';
import { createRole, isSuperuser, type TestRole } from '../support/role.js';
import { until } from '../support/until.js';

const TABLES = ['future_call', 'future_call_running', 'future_call_outcome', 'future_call_instance'];

let ran = 0;
@FutureCall('call')
class Call {
  invoke() {
    ran++;
  }
}

let database: TestDatabase;
/** Owns the tables. */
let owner: TestRole;
beforeEach(async ({ skip }) => {
  database = await createDatabase();
  onTestFinished(() => database.drop());
  skip(!(await isSuperuser(database)), 'needs a superuser');
  await createTables(database);
  owner = await createRole(database);
  for (const table of TABLES) await database.query(`alter table ${table} owner to "${owner.name}"`);
});

const boot = (url: string, options: FutureCallModuleOptions = {}) =>
  bootApp(database, { providers: options.execute === false ? [] : [Call], typeorm: { url }, options });

async function refusal(url: string, options?: FutureCallModuleOptions): Promise<string> {
  const error: unknown = await boot(url, options).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(FutureCallSchemaError);
  return (error as Error).message;
}

const force = (table: string, on = true) =>
  database.query(
    `alter table ${table} enable row level security, ${on ? 'force' : 'no force'} row level security`,
  );

describe('row-level security', () => {
  it('that holds for the role on any of the tables is refused at boot, and does no harm without force', async () => {
    for (const table of TABLES) {
      await force(table);
      expect(await refusal(owner.url, { execute: false })).toBe(
        `Row-level security holds for the role "${owner.name}" on "public"."${table}", and would hide calls from it without an error. ` +
          `Let the tables' owner run future calls, without "force", or a role with bypassrls; or take it off: ` +
          `alter table "public"."${table}" disable row level security, no force row level security.`,
      );
      await force(table, false);
    }
    const { service, close } = await boot(owner.url);
    await service.callWithDelay(Call, null, 0);
    await until(async () => ran === 1, 'the call has run');
    await close();
    expect(await database.query('select from future_call_running')).toEqual([]);
  });

  it.each([true, 'manual'] as const)('is refused with execute: %s, too', async (execute) => {
    await force('future_call');
    await force('future_call_running');
    expect(await refusal(owner.url, { execute })).toContain(
      'on "public"."future_call", "public"."future_call_running"',
    );
  });

  it.each([{}, { retention: { cancelled: true } }])(
    'that comes after the boot fails what would find nothing: cancelling, and runDue() (%o)',
    async (options) => {
      const { app, service } = await boot(owner.url, { execute: 'manual', ...options });
      await service.callWithDelay(Call, null, '1h', { identifier: 'one' });
      await force('future_call');
      const refused = {
        name: 'FutureCallSchemaError',
        message: expect.stringContaining('would hide calls from it without an error'),
      };
      await expect(service.cancel('one')).rejects.toMatchObject(refused);
      await expect(app.get(FutureCallControl).runDue()).rejects.toMatchObject(refused);
      await force('future_call', false);
      expect(await service.cancel('one')).toBe(1);
    },
  );

  it('is refused where it holds for the role of sessionUrl alone, and taken where that one bypasses it', async () => {
    await force('future_call_running');
    const through = { sessionUrl: owner.url };
    expect(await refusal(database.url, through)).toContain(
      `holds for the role "${owner.name}" on "public"."future_call_running"`,
    );
    expect(await database.query('select from future_call_instance')).toEqual([]);
    await database.query(`alter role "${owner.name}" bypassrls`);
    await (await boot(database.url, through)).close();
  });
});
