/** README.md and docs/ as the tests see them. */
import * as fs from 'node:fs';
import path from 'node:path';

export const ROOT = path.resolve(import.meta.dirname, '../..');

/** Whose code is compiled, and whose SQL is run. */
export const TESTED = ['README.md', 'docs/serverless.md', 'docs/tables.md', 'docs/coming-from-serverpod.md'];

export interface CodeBlock {
  readonly file: string;
  /** Where its first line is, counted from 1. */
  readonly line: number;
  /** The heading that it stands under. */
  readonly heading: string;
  readonly language: string;
  readonly code: string;
}

export function read(file: string): string {
  return fs.readFileSync(path.join(ROOT, file), 'utf8');
}

export function codeBlocks(files: readonly string[], language: string): CodeBlock[] {
  return files.flatMap(blocksOf).filter((block) => block.language === language);
}

function blocksOf(file: string): CodeBlock[] {
  const blocks: CodeBlock[] = [];
  let heading = '';
  let open: { line: number; language: string; code: string[] } | undefined;
  for (const [i, line] of read(file).split('\n').entries()) {
    if (open === undefined) {
      heading = /^#+ (.*)/.exec(line)?.[1] ?? heading;
      const language = /^```(\w+)$/.exec(line)?.[1];
      if (language !== undefined) open = { line: i + 2, language, code: [] };
    } else if (line === '```') {
      blocks.push({ file, heading, ...open, code: `${open.code.join('\n')}\n` });
      open = undefined;
    } else {
      open.code.push(line);
    }
  }
  return blocks;
}

/** The headings of a file, as they stand there. */
export function headings(file: string): string[] {
  const prose = read(file).replaceAll(/^```[^]*?^```$/gm, '');
  return [...prose.matchAll(/^#+ (.*)$/gm)].map((match) => match[1]!);
}

/** The rows of the first table under a heading, as their cells, without its two lines at the top. */
export function table(file: string, heading: string): string[][] {
  const lines = read(file).split('\n');
  const section = lines.findIndex((line) => /^#+ /.test(line) && line.replace(/^#+ /, '') === heading);
  const start = lines.findIndex((line, i) => i > section && line.startsWith('|'));
  if (section < 0 || start < 0) throw new Error(`${file} has no table under "${heading}".`);
  const end = lines.findIndex((line, i) => i > start && !line.startsWith('|'));
  return lines.slice(start + 2, end).map((line) =>
    line
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );
}
