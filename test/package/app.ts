/**
 * `scripts/smoke.mjs` compiles and runs it beside the packed library, on the oldest and the newest packages that this
 * works with, as an ES module and as CommonJS: no top-level await here.
 */
import 'reflect-metadata';
import { checkCalls } from './calls.js';
import { checkScopes } from './scopes.js';
import { endBySignal } from './shutdown.js';
import { checkTables } from './tables.js';

async function main() {
  await checkTables();
  await checkCalls();
  await checkScopes();
  await endBySignal();
}

void main();
