import * as fs from 'node:fs';
import path from 'node:path';
import { expect, it } from 'vitest';
import { headings, ROOT, table } from '../support/docs.js';

interface LogLine {
  readonly level: string;
  /** What it says whatever happens, without the rest. */
  readonly parts: string[];
}

/** How much of a part the page has to have: it may cut a long line with "…". */
const ENOUGH = 12;

const sources = fs
  .readdirSync(path.join(ROOT, 'lib'), { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts'))
  .map((file) => fs.readFileSync(path.join(ROOT, 'lib', file), 'utf8'));

/** The lines that lib/ logs. Those that go to debug are for nobody on call. */
const logged = sources.flatMap((code) => {
  // Where the line is put together before it is logged.
  const failure = /(?:failure = |rescueFailed\(id, )`(.*?)`/.exec(code)?.[1];
  return [...code.matchAll(/logger\.(log|warn|error)\(\s*(?:failure\)|(`|')(.*?)\2)/g)].map(
    ([, level, , text]): LogLine => ({ level: level!, parts: partsOf(text ?? failure!) }),
  );
});

const PAGE = 'docs/operations.md';
const all = headings(PAGE);

/** One table each for what the lines are about. */
const explained = all
  .slice(all.indexOf('What a log line means') + 1)
  .flatMap((heading) => table(PAGE, heading))
  .flatMap(([level, lines]) =>
    [...lines!.matchAll(/`([^`]+)`/g)].map(([, text]) => ({ level: level!, text: text! })),
  );

function partsOf(template: string): string[] {
  return template
    .split(/\$\{(?:[^{}]|\{[^}]*\})*\}/)
    .map((part) => part.trim().slice(0, ENOUGH))
    .filter((part) => part.length > 3);
}

const means = (line: LogLine, { level, text }: (typeof explained)[number]) =>
  line.level === level && line.parts.length > 0 && line.parts.every((part) => text.includes(part));

it('explains every line of the log', () => {
  const calls = sources.flatMap((code) => code.match(/logger\.(log|warn|error)\(/g) ?? []);
  expect(logged).toHaveLength(calls.length);
  expect(logged.filter((line) => !explained.some((row) => means(line, row)))).toEqual([]);
});

it('explains no line that is not logged', () => {
  expect(explained.filter((row) => !logged.some((line) => means(line, row)))).toEqual([]);
});
