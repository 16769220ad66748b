import * as fs from 'node:fs';
import path from 'node:path';
import ts from 'typescript';
import { describe, expect, it } from 'vitest';

/** lib/ as the layout sees it: layer → what it may import beside itself. CONTRIBUTING.md explains the layers. */
const LAYERS = {
  index: ['module', 'runner', 'service', 'store', 'discovery', 'base', 'common'],
  module: ['runner', 'service', 'store', 'discovery', 'base', 'common'],
  runner: ['store', 'discovery', 'base', 'common'],
  service: ['store', 'discovery', 'base', 'common'],
  store: ['base', 'common'],
  discovery: ['base', 'common'],
  base: ['common'],
  common: [],
} satisfies Record<string, string[]>;

type Layer = keyof typeof LAYERS;

function layerOf(file: string): Layer {
  if (file === 'index.ts') return 'index';
  const folder = /^(runner|store|discovery|common)\//.exec(file)?.[1];
  if (folder) return folder as Layer;
  if (/^future-call\.(?:[a-z-]*module(?:-definition)?)\.ts$/.test(file)) return 'module';
  if (file === 'future-call.service.ts') return 'service';
  // Types, errors, options, entities, events, the decorator, migrations: what everybody may import.
  return 'base';
}

/** Every breach of the layout in these sources (path below lib/ → text). */
function findBreaches(sources: Record<string, string>): string[] {
  const imports = new Map(Object.entries(sources).map(([file, text]) => [file, importsOf(file, text)]));
  const breaches: string[] = [];
  for (const [file, text] of Object.entries(sources)) {
    if (file.endsWith('/index.ts')) breaches.push(`${file}: only lib/index.ts is an index`);
    if (hasDefaultExport(text)) breaches.push(`${file}: has a default export`);
    const layer = layerOf(file);
    const allowed: string[] = LAYERS[layer];
    for (const imported of imports.get(file) ?? []) {
      const other = layerOf(imported);
      if (!(imported in sources)) breaches.push(`${file}: imports ${imported}, which is not in lib/`);
      else if (other !== layer && !allowed.includes(other)) {
        breaches.push(`${file}: ${layer} must not import ${other} (${imported})`);
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
    ['runner/a.ts', `import { A } from '../future-call.service.js';`, 'runner must not import service'],
    ['runner/a.ts', `export * from '../future-call.module.js';`, 'runner must not import module'],
    ['future-call.service.ts', `import type { A } from './runner/b.js';`, 'service must not import runner'],
    ['store/a.ts', `import { A } from '../runner/b.js';`, 'store must not import runner'],
    ['store/a.ts', `import { A } from '../discovery/b.js';`, 'store must not import discovery'],
    ['discovery/a.ts', `const a = await import('../store/b.js');`, 'discovery must not import store'],
    ['future-call.types.ts', `import { A } from './store/b.js';`, 'base must not import store'],
    ['migrations/a.ts', `import { A } from '../store/b.js';`, 'base must not import store'],
    ['common/a.ts', `import { A } from '../future-call.errors.js';`, 'common must not import base'],
    ['store/a.ts', `import { A } from '../index.js';`, 'store must not import index'],
    ['store/a.ts', `import { A } from '../../test/b.js';`, 'which is not in lib/'],
    ['common/c.ts', `import { B } from './b.js';`, 'cycle: common/b.ts → common/c.ts → common/b.ts'],
    ['store/a.ts', `import type { A } from './a.js';`, 'cycle: store/a.ts → store/a.ts'],
    ['store/a.ts', 'export default class A {}', 'has a default export'],
    ['store/a.ts', 'class A {}\nexport { A as default };', 'has a default export'],
    ['store/index.ts', '', 'only lib/index.ts is an index'],
  ])('would not be kept by %s with %s', (file, text, breach) => {
    const others = {
      'index.ts': `export * from './future-call.module.js';`,
      'future-call.module.ts': `import { B } from './runner/b.js';`,
      'future-call.service.ts': `import { B } from './store/b.js';`,
      'future-call.errors.ts': '',
      'runner/b.ts': `import { B } from '../store/b.js';`,
      'store/b.ts': '',
      'discovery/b.ts': '',
      'common/b.ts': `import { C } from './c.js';`,
      'common/c.ts': '',
    };
    expect(findBreaches(others)).toEqual([]);
    expect(findBreaches({ ...others, [file]: text }).join('\n')).toContain(breach);
  });
});
