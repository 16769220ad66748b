import * as fs from 'node:fs';
import path from 'node:path';
import ts from 'typescript';
import { expect, it } from 'vitest';
import * as library from '../../lib/index.js';

/** What a user can import. Adding to it is a feature, and taking from it a breaking change. */
const VALUES = [
  'DoNotRetryError',
  'FutureCall',
  'FutureCallControl',
  'FutureCallDataError',
  'FutureCallEntity',
  'FutureCallError',
  'FutureCallHandlerError',
  'FutureCallInstanceEntity',
  'FutureCallModule',
  'FutureCallOptionsError',
  'FutureCallOutcomeEntity',
  'FutureCallRunningEntity',
  'FutureCallSchemaError',
  'FutureCallService',
  'FutureCallSessionError',
  'FutureCallTimeError',
  'RetryError',
  'UnknownFutureCallError',
  'futureCallEntities',
  'futureCallMigrations',
];

const TYPES = [
  'CallManyOptions',
  'CancelOptions',
  'Delay',
  'DelayObject',
  'Duration',
  'DurationObject',
  'FutureCallBackoff',
  'FutureCallCancelled',
  'FutureCallCompleted',
  'FutureCallConnected',
  'FutureCallContext',
  'FutureCallData',
  'FutureCallDisconnected',
  'FutureCallErrorRecord',
  'FutureCallEvent',
  'FutureCallFailed',
  'FutureCallHandler',
  'FutureCallHandlerClass',
  'FutureCallHandlerOptions',
  'FutureCallInterrupted',
  'FutureCallModuleAsyncOptions',
  'FutureCallModuleExtras',
  'FutureCallModuleOptions',
  'FutureCallOptionsFactory',
  'FutureCallOutcome',
  'FutureCallReleased',
  'FutureCallRequest',
  'FutureCallRescued',
  'FutureCallScheduled',
  'FutureCallStarted',
  'JsonForm',
  'NewFutureCall',
  'RunDueOptions',
  'RunDueResult',
  'ScheduleOptions',
  'ScheduledFutureCall',
];

const byName = (a: string, b: string) => (a < b ? -1 : 1);

it('the public API is this list', () => {
  const file = path.resolve(import.meta.dirname, '../../lib/index.ts');
  const source = ts.createSourceFile(file, fs.readFileSync(file, 'utf8'), ts.ScriptTarget.ESNext);
  const values: string[] = [];
  const types: string[] = [];
  for (const statement of source.statements) {
    // Only named re-exports: anything else would be seen neither here nor in a review.
    if (
      !ts.isExportDeclaration(statement) ||
      !statement.exportClause ||
      !ts.isNamedExports(statement.exportClause)
    ) {
      throw new Error(`lib/index.ts: ${statement.getText(source)}`);
    }
    for (const { name, isTypeOnly } of statement.exportClause.elements) {
      (isTypeOnly || statement.isTypeOnly ? types : values).push(name.text);
    }
  }
  expect(values.toSorted(byName)).toEqual(VALUES);
  expect(types.toSorted(byName)).toEqual(TYPES);
  expect(Object.keys(library).toSorted(byName)).toEqual(VALUES);
});
