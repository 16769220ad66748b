import { execFile } from 'node:child_process';
import * as fs from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import type { Type } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import * as library from '../../lib/index.js';
import { bootApp } from '../support/app.js';
import { createDatabase, type TestDatabase } from '../support/database.js';
import { codeBlocks, read, ROOT, table, TESTED, type CodeBlock } from '../support/docs.js';
import { AppProcess } from '../support/processes.js';
import { until } from '../support/until.js';

// Inside the repository: there `nestjs-future-call` is the library as it was built, for the compiler and for Node.
const FOLDER = path.join(ROOT, '.cache/readme');

let database: TestDatabase;
let written: string[];
/** What the compiler says of them. */
let complaints: string;
beforeAll(async () => {
  database = await createDatabase();
  written = await writePrograms();
  complaints = await compile(written);
});
afterAll(() => database.drop());

describe('the code of the README', () => {
  it('compiles, and its example does what it says, also after a restart', async () => {
    expect(complaints).toBe('');
    const [example, commonJs] = written;
    const first = start(example!);
    const reminders = (app: AppProcess) => app.output.match(/Reminding ada@example\.com/g)?.length ?? 0;
    await first.waitForOutput(/runs future calls/);
    await until(
      async () => reminders(first) > 0 || (await database.query('select from future_call')).length > 0,
      'the call is scheduled',
    );
    expect(await first.terminate()).toEqual({ code: null, signal: 'SIGTERM' });

    const second = start(commonJs!);
    await until(async () => reminders(first) + reminders(second) === 2, 'both calls have run');
    expect(await second.terminate()).toEqual({ code: null, signal: 'SIGTERM' });
    for (const name of ['future_call', 'future_call_running', 'future_call_outcome', 'future_call_instance'])
      expect(await database.query(`select * from ${name}`), name).toEqual([]);
  });
});

describe('docs/serverless.md', () => {
  it('has a route and a script that run what is due', async () => {
    expect(complaints).toBe('');
    const compiled = (file: string) => path.join(FOLDER, 'out', file);
    process.env.DATABASE_URL = database.url;
    const { AppModule } = (await import(compiled('app.module.js'))) as { AppModule: Type };
    const app = await NestFactory.create(AppModule, { logger: false });
    onTestFinished(() => app.close());
    await app.listen(0, '127.0.0.1');
    const url = `${await app.getUrl()}/future-calls/run-due`;
    const schedule = () =>
      database.query(`insert into future_call (name, data, due_at) values
        ('sendReminder', '{ "email": "ada@example.com" }', now()),
        ('sendReminder', null, '2030-01-01T09:00:00Z')`);

    await schedule();
    const request = (secret: string) =>
      fetch(url, { method: 'POST', headers: { authorization: `Bearer ${secret}` } });
    expect((await request('undefined')).status).toBe(403);
    process.env.CRON_SECRET = 'only cron knows';
    expect((await request('a guess')).status).toBe(403);
    const answer = await request('only cron knows');
    const documented = /^`(\{ "started".*\})`\.$/m.exec(read('docs/serverless.md'))![1]!;
    const result = (await answer.json()) as object;
    expect(result).toMatchObject({ started: 1, completed: 1, nextDueAt: '2030-01-01T09:00:00.000Z' });
    expect(Object.keys(result)).toEqual(Object.keys(JSON.parse(documented) as object));

    await schedule();
    const script = start('run-due.ts');
    expect(await script.exited).toEqual({ code: 0, signal: null });
    expect(script.output).toContain('Reminding ada@example.com');
    expect(script.output).toContain('1 completed, 0 failed. Next: 2030-01-01T09:00:00.000Z');
    await database.query('truncate future_call');
  });
});

describe('docs/tables.md', () => {
  it('lists every column as it is', async () => {
    await bootApp(database, { options: { execute: false } });
    const pending = await columnsOf('future_call');
    expect(columnsIn('future_call')).toEqual(pending);
    expect([...pending, ...columnsIn('future_call_running')]).toEqual(await columnsOf('future_call_running'));
    expect(columnsIn('future_call_outcome')).toEqual(await columnsOf('future_call_outcome'));
    expect(columnsIn('future_call_instance')).toEqual(await columnsOf('future_call_instance'));
  });

  it('has SQL that works, as has the README', async () => {
    // It executes, so that there is an instance, and has no handler, so that what is scheduled stays.
    await bootApp(database);
    await database.query(`
      insert into future_call_outcome (call_id, name, data, due_at, attempt, outcome, errors, created_at) values
        (42, 'sendReminder', '{ "email": "ada@example.com" }', now(), 1, 'failed', '[{ "message": "no route" }]', now()),
        (43, 'sendReminder', '{ "email": "bob@example.com" }', now(), 1, 'interrupted', '[]', now())`);
    await database.query(
      `insert into future_call (name, due_at) values ('late', now() - interval '1 minute')`,
    );
    await database.query(`
      insert into future_call_running (id, name, due_at, attempt, instance_id, claim, created_at)
      select 7, 'runs', now(), 1, id, 1, now() from future_call_instance`);

    const answers = new Map<string, Record<string, unknown>[][]>();
    for (const { file, line, heading, code } of codeBlocks(['README.md', 'docs/tables.md'], 'sql')) {
      const rows = await database.query(code).catch((error: Error) => {
        throw new Error(`${file}, line ${line}: ${error.message}`, { cause: error });
      });
      answers.set(heading, [...(answers.get(heading) ?? []), rows]);
    }
    expect(answers.get('The tables')![1]).toMatchObject([{ error: 'no route' }, { error: null }]);
    expect(answers.get('What is due and waits')![0]).toMatchObject([{ name: 'late', count: '1' }]);
    expect(answers.get('What nobody can run')![0]).toMatchObject([
      { name: 'late' },
      { name: 'sendReminder' },
    ]);
    expect(answers.get('What runs where')![0]).toMatchObject([{ id: '7', name: 'runs', pid: process.pid }]);
    expect(answers.get('Who runs calls, and is alive')![0]).toMatchObject([{ alive: true, calls: '1' }]);
    expect(answers.get('What failed, and why')![0]).toHaveLength(2);
    expect(answers.get('Run it again')!.map((rows) => rows.length)).toEqual([1, 1]);

    // One of the README's insert, and one of each way to run calls again; what was inserted, moved and cancelled is gone.
    const left = await database.query<{ email: string }>(
      `select data ->> 'email' as email from future_call where name = 'sendReminder' order by id`,
    );
    expect(left.map(({ email }) => email)).toEqual(['ada@example.com', 'ada@example.com', 'bob@example.com']);
    expect(await database.query('select from future_call_outcome')).toEqual([]);
  });
});

function start(program: string): AppProcess {
  const file = path.join(FOLDER, 'out', program.replace(/ts$/, 'js'));
  return new AppProcess('the example of the README', file, { env: { DATABASE_URL: database.url } });
}

/** Writes every block of TypeScript into a file of its own. The first is the README's example, the second the same as CommonJS. */
async function writePrograms(): Promise<string[]> {
  await fs.mkdir(FOLDER, { recursive: true });
  const blocks = codeBlocks(TESTED, 'ts');
  const programs = [{ name: 'readme-example.cts', code: blocks[0]!.code }, ...blocks.map(programOf)];
  for (const { name, code } of programs) await fs.writeFile(path.join(FOLDER, name), code);
  const [commonJs, example, ...others] = programs.map(({ name }) => name);
  return [example!, commonJs!, ...others];
}

/** A block without imports is a part of a program: it gets those of the library, and things to talk of from CONTEXT. */
function programOf({ file, line, code }: CodeBlock): { name: string; code: string } {
  // One that is to be imported by another says how it is called.
  const [, own] = /^\/\/ ([\w.-]+\.ts)\n/.exec(code) ?? [];
  const name = own ?? `${file.replaceAll(/[^\w]+/g, '-')}-line-${line}.ts`;
  if (/^import /m.test(code)) return { name, code };
  const values = Object.keys(library).join(', ');
  const imports = [
    `import { ${values}, type FutureCallContext, type FutureCallHandler } from 'nestjs-future-call';`,
    `import { Injectable } from '@nestjs/common';`,
    `import { expect, it, vi } from 'vitest';`,
  ];
  return { name, code: `${imports.join(' ')}\n${code}` };
}

const CONTEXT = `
import type { FutureCallControl, FutureCallHandler, FutureCallService } from 'nestjs-future-call';
import type { DataSource } from 'typeorm';
declare global {
  interface User { id: string; email: string }
  class Mailer { send(email: string): Promise<void> }
  class FakeMailer extends Mailer { sent: string[] }
  class Reports { has(id: string): Promise<boolean>; export(id: string, signal: AbortSignal): Promise<void> }
  class Order { id: string; total: number }
  class SendReminder implements FutureCallHandler<{ email: string }> {
    constructor(mailer: Mailer);
    invoke(data: { email: string }): Promise<void>;
  }
  class RemindToPay implements FutureCallHandler<{ orderId: string }> { invoke(data: { orderId: string }): void }
  const dataSource: DataSource;
  const futureCalls: FutureCallService;
  const control: FutureCallControl;
  const signup: { signUp(user: User): Promise<void> };
  const mailer: FakeMailer;
  const metrics: { increment(name: string, labels: object): void };
  const user: User;
  const email: string;
}
`;

/** Compiles programs with the settings of an app that Nest's CLI makes. Returns what the compiler says. */
async function compile(programs: string[]): Promise<string> {
  const compilerOptions = {
    module: 'nodenext',
    target: 'es2023',
    strict: true,
    strictPropertyInitialization: false,
    isolatedModules: true,
    esModuleInterop: true,
    emitDecoratorMetadata: true,
    experimentalDecorators: true,
    skipLibCheck: true,
    types: ['node'],
    rootDir: '.',
    outDir: 'out',
  };
  await fs.writeFile(path.join(FOLDER, 'context.d.ts'), CONTEXT);
  const config = JSON.stringify({ compilerOptions, files: ['context.d.ts', ...programs] });
  await fs.writeFile(path.join(FOLDER, 'tsconfig.json'), config);
  const tsc = path.join(ROOT, 'node_modules/typescript/bin/tsc');
  return promisify(execFile)(process.execPath, [tsc, '-p', FOLDER], { cwd: FOLDER }).then(
    () => '',
    (error: { stdout: string }) => error.stdout,
  );
}

/** The columns that a section of docs/tables.md lists, each as `name type`. */
function columnsIn(name: string): string[] {
  return table('docs/tables.md', `\`${name}\``).map(([column, type]) =>
    `${column} ${type}`.replaceAll('`', ''),
  );
}

async function columnsOf(name: string): Promise<string[]> {
  const columns = await database.query<{ column: string }>(
    `select attname || ' ' || regexp_replace(format_type(atttypid, atttypmod), 'timestamp(.*) with time zone', 'timestamptz\\1')
       || case when attnotnull then '' else ', null' end as column
     from pg_attribute where attrelid = $1::regclass and attnum > 0 and not attisdropped order by attnum`,
    [name],
  );
  return columns.map(({ column }) => column);
}
