import * as fs from 'node:fs';
import path from 'node:path';
import vm from 'node:vm';
import semver from 'semver';
import ts from 'typescript';
import { describe, expect, it } from 'vitest';
import { DEFAULTS, resolveOptions } from '../../lib/module/future-call.options.js';
import * as library from '../../lib/index.js';
import { DEFAULT_BACKOFF } from '../../lib/engine/future-call.retry-policy.js';
import { MAX_PREFETCH } from '../../lib/engine/future-call.slots.js';
import { parseDuration } from '../../lib/common/duration.js';
import { codeBlocks, headings, read, ROOT, table, TESTED } from '../support/docs.js';

const readme = read('README.md');
const manifest = JSON.parse(read('package.json')) as {
  name: string;
  engines: { node: string };
  scripts: Record<string, string>;
  peerDependencies: Record<string, string>;
};

describe('the options of the README', () => {
  const documented = table('README.md', 'Options').map(rowOf);
  const declared = [
    ...membersOf('lib/module/future-call.options.ts', 'FutureCallModuleOptions'),
    ...membersOf('lib/module/future-call.module-definition.ts', 'FutureCallModuleExtras'),
  ];

  it('are all there are, in their order', () => {
    expect(documented.map(({ name }) => name)).toEqual(declared.map(({ name }) => name));
    expect(documented.map(({ name }) => name)).toEqual([...Object.keys(DEFAULTS), 'dataSource']);
  });

  const commentOf = (name: string) => declared.find((one) => one.name === name)!.defaultText;
  const inWords = documented.filter(({ text }) => valueOf(text) === undefined);

  it.each(documented.filter((one) => !inWords.includes(one)))(
    '$name has the default that applies, here and in its comment',
    ({ name, text }) => {
      expect(resolveOptions({ [name]: valueOf(text) })).toEqual(DEFAULTS);
      expect(resolveOptions({ [name]: valueOf(commentOf(name)) })).toEqual(DEFAULTS);
    },
  );

  it('have defaults in words where there is no value, the same in their comments', () => {
    expect(inWords.map(({ name }) => name)).toEqual(['sessionUrl', 'dataSource']);
    expect(DEFAULTS.sessionUrl).toBeUndefined();
    for (const { name, text } of inWords) expect(text).toBe(commentOf(name));
  });

  it.each(declared.filter(({ range }) => range))('$name has the limits of its comment', ({ name, range }) => {
    expect(documented.find((one) => one.name === name)!.meaning).toContain(range);
  });
});

describe('the options of a handler in the README', () => {
  const documented = table('README.md', 'Handlers').map(rowOf);
  const declared = membersOf('lib/contract/future-call.types.ts', 'FutureCallHandlerOptions');

  it('are all there are, with their defaults', () => {
    expect(documented.map(({ name }) => name)).toEqual(declared.map(({ name }) => name));
    for (const { name, text } of documented.filter((one) => one.name !== 'backoff')) {
      expect(text.replaceAll('`', '')).toBe(
        declared.find((one) => one.name === name)!.defaultText.replaceAll('`', ''),
      );
    }
    const comment = declared.find(({ name }) => name === 'backoff')!.defaultText;
    for (const text of [documented.find(({ name }) => name === 'backoff')!.text, comment]) {
      const { type, delay, max } = valueOf(text) as { type: string; delay: unknown; max: unknown };
      expect({ type, delay: parseDuration(delay), max: parseDuration(max) }).toEqual({
        type: 'exponential',
        ...DEFAULT_BACKOFF,
      });
    }
  });
});

describe('what the README says', () => {
  it('of requirements is what package.json asks for', () => {
    const { node } = manifest.engines;
    const {
      '@nestjs/core': nest,
      '@nestjs/common': common,
      '@nestjs/typeorm': ofTypeorm,
      typeorm,
    } = manifest.peerDependencies;
    expect(readme).toContain(
      `Node.js ${node.replace('>=', '')} or newer, NestJS ${linesOf(nest!)}, TypeORM ${linesOf(typeorm!)}, and PostgreSQL`,
    );
    expect([common, ofTypeorm]).toEqual([nest, nest]);
    const [, packages] = /^npm install (.+)$/m.exec(readme)!;
    // The rest is in every Nest app.
    const asked = [
      ...packages!.split(' '),
      '@nestjs/common',
      '@nestjs/core',
      'reflect-metadata',
      'rxjs',
    ].toSorted();
    expect(asked).toEqual([manifest.name, ...Object.keys(manifest.peerDependencies)].toSorted());
  });

  it('to type exists', () => {
    const commands = codeBlocks(['README.md'], 'sh').map(({ code }) => code.trim());
    expect(commands).toContain('npm ci && npm start');
    expect(commands).toContain('npm ci && npm test');
    expect(manifest.scripts).toMatchObject({ start: expect.any(String), test: expect.any(String) });

    const routes = sampleRoutes();
    const requests = [...readme.matchAll(/^curl (?:-X (\w+) )?localhost:3000(\/\S*)/gm)];
    expect(requests).toHaveLength(3);
    for (const [, method = 'GET', url] of requests) {
      const route = url!.replace(/[^/]+@[^/]+$/, ':email');
      expect(routes).toContain(`${method} ${route}`);
    }

    const settings = read('sample/settings.ts') + read('scripts/start.mjs');
    for (const name of ['DAY', 'PORT', 'INSTANCES', 'DATABASE_URL']) {
      expect(readme).toContain(`\`${name}`);
      expect(settings).toContain(name);
    }
  });

  it('of the prefetch is what it is', () => {
    expect(readme).toContain(`at most ${MAX_PREFETCH.toLocaleString('en')} calls`);
  });

  it('of events is all there is', () => {
    const types = [...read('lib/contract/future-call.events.ts').matchAll(/readonly type: '(\w+)'/g)].map(
      ([, type]) => type,
    );
    expect(types.length).toBeGreaterThan(0);
    expect(types.filter((type) => !readme.includes(`\`${type}\``))).toEqual([]);
  });

  it('names everything that can be imported', () => {
    const pages = TESTED.map(read).join('\n');
    expect(Object.keys(library).filter((name) => !pages.includes(name))).toEqual([]);
  });

  it('first is an example of twenty lines, imports aside', () => {
    const [example] = codeBlocks(['README.md'], 'ts');
    const lines = example!.code.split('\n').filter((line) => line.trim() && !line.startsWith('import '));
    expect(lines.length).toBeLessThanOrEqual(20);
  });

  it('has a target wherever it links to', () => {
    const pages = ['README.md', 'CONTRIBUTING.md', ...markdownIn('docs')];
    const broken = pages.flatMap((page) => {
      const links = read(page).matchAll(/\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)/g);
      return [...links]
        .filter(([, file, anchor]) => !exists(file ? path.join(path.dirname(page), file) : page, anchor))
        .map(([link]) => `${page}: ${link}`);
    });
    expect(broken).toEqual([]);
  });
});

it('CONTRIBUTING.md says what every folder of lib/ and test/ is for', () => {
  const folders = ['lib', 'test'].flatMap((parent) =>
    fs
      .readdirSync(path.join(ROOT, parent), { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map(({ name }) => `\`${parent}/${name}/\``),
  );
  const named = ['Where a change goes', 'Tests'].flatMap((heading) =>
    table('CONTRIBUTING.md', heading).map(([folder]) => folder),
  );
  expect(folders.filter((folder) => !named.includes(folder))).toEqual([]);
});

function exists(file: string, anchor: string | undefined): boolean {
  if (!fs.existsSync(path.join(ROOT, file))) return false;
  return anchor === undefined || headings(file).map(slug).includes(anchor);
}

interface Row {
  name: string;
  text: string;
  meaning: string;
}

function rowOf([name, text, meaning]: string[]): Row {
  return { name: name!.replaceAll('`', ''), text: text!, meaning: meaning! };
}

interface Member {
  name: string;
  defaultText: string;
  /** "From … to …", where the comment says so. */
  range: string | undefined;
}

/** The members of an interface, with what their comments say. */
function membersOf(file: string, name: string): Member[] {
  const source = ts.createSourceFile(file, read(file), ts.ScriptTarget.Latest, true);
  const declaration = source.statements.find(
    (one): one is ts.InterfaceDeclaration => ts.isInterfaceDeclaration(one) && one.name.text === name,
  );
  return declaration!.members.map((member) => {
    const tag = ts.getJSDocTags(member).find(({ tagName }) => tagName.text === 'default');
    const comment = member.getFullText(source).replaceAll(/\s*\n\s*\* ?/g, ' ');
    return {
      name: member.name!.getText(source),
      defaultText: ts.getTextOfJSDocComment(tag?.comment) ?? '',
      range: /From [\d,]+(?: \w+)? to [\d,]+(?: \w+)?\./.exec(comment)?.[0],
    };
  });
}

/** The value that a default is written as; undefined for one in words. */
function valueOf(text: string): unknown {
  try {
    return vm.runInThisContext(`(${text.replaceAll('`', '')})`);
  } catch {
    return undefined;
  }
}

/** `GET /outbox` and so on, from the decorators of the sample's controllers. */
function sampleRoutes(): string[] {
  // Not into what a run of the sample leaves: its database, and what was compiled.
  const folders = fs.readdirSync(path.join(ROOT, 'sample'), { withFileTypes: true });
  return folders
    .filter((entry) => entry.isDirectory() && !/^\.|^dist$/.test(entry.name))
    .flatMap(({ name }) => fs.readdirSync(path.join(ROOT, 'sample', name)).map((file) => `${name}/${file}`))
    .filter((file) => file.endsWith('.controller.ts'))
    .flatMap((file) => {
      const source = read(path.join('sample', file));
      const [, base = ''] = /@Controller\((?:'(.*)')?\)/.exec(source)!;
      return [...source.matchAll(/@(Get|Post|Delete)\((?:'(.*)')?\)/g)].map(
        ([, method, route = '']) => `${method!.toUpperCase()} ${path.posix.join('/', base, route)}`,
      );
    });
}

function markdownIn(folder: string): string[] {
  return fs
    .readdirSync(path.join(ROOT, folder))
    .filter((file) => file.endsWith('.md'))
    .map((file) => `${folder}/${file}`);
}

/** `^0.3.20 || ^1.0.0` is "0.3 (from 0.3.20) or 1". */
function linesOf(range: string): string {
  const lines = range.split(' || ').map((part) => {
    const { major, minor, patch, version } = semver.minVersion(part)!;
    const line = major > 0 ? `${major}` : `0.${minor}`;
    return patch > 0 || (major > 0 && minor > 0) ? `${line} (from ${version})` : line;
  });
  return lines.join(' or ');
}

/** The anchor that GitHub gives a heading. */
function slug(heading: string): string {
  return heading
    .toLowerCase()
    .replaceAll(/[^\p{Letter}\p{Number}\p{Connector_Punctuation} -]/gu, '')
    .replaceAll(' ', '-');
}
