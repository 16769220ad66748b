import * as fs from 'node:fs';
import path from 'node:path';
import ts from 'typescript';
import { describe, expect, it } from 'vitest';

/** lib/'s rooms, from the top down: who is in a room may import what is in the rooms below that it names. */
const ROOMS = {
  index: [
    'wiring',
    'control',
    'scheduling',
    'engine',
    'handlers',
    'store',
    'module',
    'tables',
    'contract',
    'common',
  ],
  wiring: ['control', 'scheduling', 'engine', 'handlers', 'store', 'module', 'tables', 'contract', 'common'],
  control: ['engine', 'handlers', 'store', 'module', 'tables', 'contract', 'common'],
  scheduling: ['handlers', 'store', 'module', 'tables', 'contract', 'common'],
  engine: ['handlers', 'store', 'module', 'tables', 'contract', 'common'],
  handlers: ['module', 'contract', 'common'],
  store: ['module', 'tables', 'contract', 'common'],
  module: ['contract', 'common'],
  tables: ['contract', 'common'],
  contract: ['common'],
  common: [],
} satisfies Record<string, string[]>;

type Room = keyof typeof ROOMS;

/** Where a file is; undefined when it is in no room: lib/ itself is no hall that everybody may fill. */
function roomOf(file: string): Room | undefined {
  if (file === 'index.ts') return 'index';
  if (file === 'future-call.module.ts') return 'wiring';
  const folder = /^([a-z]+)\//.exec(file)?.[1];
  return folder !== undefined && Object.hasOwn(ROOMS, folder) ? (folder as Room) : undefined;
}

/** Every breach of the layout in these sources (path below lib/ → text). */
function findBreaches(sources: Record<string, string>): string[] {
  const imports = new Map(Object.entries(sources).map(([file, text]) => [file, importsOf(file, text)]));
  const breaches: string[] = [];
  for (const [file, text] of Object.entries(sources)) {
    if (file.endsWith('/index.ts')) breaches.push(`${file}: only lib/index.ts is an index`);
    if (hasDefaultExport(text)) breaches.push(`${file}: has a default export`);
    const room = roomOf(file);
    if (room === undefined) {
      breaches.push(`${file}: is in no room`);
      continue;
    }
    const allowed: string[] = ROOMS[room];
    for (const imported of imports.get(file) ?? []) {
      const other = roomOf(imported);
      if (!(imported in sources)) breaches.push(`${file}: imports ${imported}, which is not in lib/`);
      else if (other !== undefined && other !== room && !allowed.includes(other)) {
        breaches.push(`${file}: ${room} must not import ${other} (${imported})`);
      }
    }
  }
  return [...breaches, ...findCycles(imports)];
}

/** Relative imports and re-exports, of types too, as paths below lib/. */
function importsOf(file: string, text: string): string[] {
  return ts
    .preProcessFile(text)
    .importedFiles.map(({ fileName }) => fileName)
    .filter((specifier) => specifier.startsWith('.'))
    .map((specifier) => path.posix.join(path.posix.dirname(file), specifier.replace(/\.js$/, '.ts')));
}

function hasDefaultExport(text: string): boolean {
  return /^\s*export\s+default\b|^\s*export\s*\{[^}]*\bas\s+default\b/m.test(text);
}

function findCycles(imports: Map<string, string[]>): string[] {
  const cycles: string[] = [];
  const done = new Set<string>();
  const visit = (file: string, trail: string[]) => {
    const start = trail.indexOf(file);
    if (start >= 0) cycles.push(`cycle: ${[...trail.slice(start), file].join(' → ')}`);
    if (start >= 0 || done.has(file)) return;
    for (const imported of imports.get(file) ?? []) visit(imported, [...trail, file]);
    done.add(file);
  };
  for (const file of imports.keys()) visit(file, []);
  return cycles;
}

function readSources(folder: string): Record<string, string> {
  const files = fs.readdirSync(folder, { recursive: true, encoding: 'utf8' });
  return Object.fromEntries(
    files
      .filter((file) => file.endsWith('.ts'))
      .map((file) => [file.replaceAll(path.sep, '/'), fs.readFileSync(path.join(folder, file), 'utf8')]),
  );
}

describe('the layout of lib/', () => {
  it('is kept', () => {
    const sources = readSources(path.resolve(import.meta.dirname, '../../lib'));
    expect(Object.keys(sources)).toContain('index.ts');
    expect(findBreaches(sources)).toEqual([]);
  });

  it.each([
    ['engine/a.ts', `import { A } from '../scheduling/b.js';`, 'engine must not import scheduling'],
    ['engine/a.ts', `import { A } from '../control/b.js';`, 'engine must not import control'],
    ['control/a.ts', `import { A } from '../scheduling/b.js';`, 'control must not import scheduling'],
    ['engine/a.ts', `export * from '../future-call.module.js';`, 'engine must not import wiring'],
    ['scheduling/a.ts', `import type { A } from '../engine/b.js';`, 'scheduling must not import engine'],
    ['store/a.ts', `import { A } from '../engine/b.js';`, 'store must not import engine'],
    ['store/a.ts', `import { A } from '../handlers/b.js';`, 'store must not import handlers'],
    ['handlers/a.ts', `const a = await import('../store/b.js');`, 'handlers must not import store'],
    ['module/a.ts', `import { A } from '../tables/b.js';`, 'module must not import tables'],
    ['contract/a.ts', `import { A } from '../store/b.js';`, 'contract must not import store'],
    ['tables/migrations/a.ts', `import { A } from '../../store/b.js';`, 'tables must not import store'],
    ['common/a.ts', `import { A } from '../contract/b.js';`, 'common must not import contract'],
    ['store/a.ts', `import { A } from '../index.js';`, 'store must not import index'],
    ['store/a.ts', `import { A } from '../../test/b.js';`, 'which is not in lib/'],
    ['common/c.ts', `import { B } from './b.js';`, 'cycle: common/b.ts → common/c.ts → common/b.ts'],
    ['store/a.ts', `import type { A } from './a.js';`, 'cycle: store/a.ts → store/a.ts'],
    ['store/a.ts', 'export default class A {}', 'has a default export'],
    ['store/a.ts', 'class A {}\nexport { A as default };', 'has a default export'],
    ['store/index.ts', '', 'only lib/index.ts is an index'],
    ['future-call.types.ts', '', 'is in no room'],
    ['utils/a.ts', '', 'is in no room'],
  ])('would not be kept by %s with %s', (file, text, breach) => {
    const others = {
      'index.ts': `export * from './future-call.module.js';`,
      'future-call.module.ts': `import { B } from './engine/b.js';`,
      'control/b.ts': `import { B } from '../engine/b.js';`,
      'scheduling/b.ts': `import { B } from '../store/b.js';`,
      'engine/b.ts': `import { B } from '../store/b.js';`,
      'store/b.ts': '',
      'handlers/b.ts': '',
      'tables/b.ts': '',
      'contract/b.ts': '',
      'common/b.ts': `import { C } from './c.js';`,
      'common/c.ts': '',
    };
    expect(findBreaches(others)).toEqual([]);
    expect(findBreaches({ ...others, [file]: text }).join('\n')).toContain(breach);
  });
});

describe('timers and clocks', () => {
  // What reads a clock, or sets a timer on whatever is global at that moment: a test of the app may have replaced it.
  const TAKEN =
    /\bnode:(?:timers|perf_hooks)|\bperformance\.|\bDate\.now\b|\bnew Date\(\)|\bAbortSignal\.timeout\b/;
  const TIMERS = /\b(setTimeout|clearTimeout|setInterval|clearInterval|setImmediate)\(/g;

  /** The timers that a source uses without importing ours. */
  function foreign(text: string): string[] {
    const [, imported = ''] = /import \{([^}]*)\} from '(?:[./]+common|\.)\/timers\.js'/.exec(text) ?? [];
    const names = imported.split(',').map((name) => name.trim());
    return [...text.matchAll(TIMERS)].map(([, name]) => name!).filter((name) => !names.includes(name));
  }

  it('come from common/timers.ts alone, which takes them when it is loaded', () => {
    const { 'common/timers.ts': timers, ...others } = readSources(
      path.resolve(import.meta.dirname, '../../lib'),
    );
    expect(timers).toMatch(TAKEN);
    const code = Object.entries(others).map(([file, text]) => [file, withoutComments(text)] as const);
    expect(code.filter(([, text]) => TAKEN.test(text)).map(([file]) => file)).toEqual([]);
    expect(
      code.map(([file, text]) => [file, foreign(text)]).filter(([, names]) => names!.length > 0),
    ).toEqual([]);
    expect(foreign('setTimeout(work, 1)')).toEqual(['setTimeout']);
  });
});

function withoutComments(text: string): string {
  return text.replaceAll(/\/\*[^]*?\*\/|\/\/.*$/gm, '');
}
