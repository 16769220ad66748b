import { expect, it } from 'vitest';
import { read } from '../support/docs.js';

const PAGE = 'docs/guarantees.md';

/** The lines that name a test: what it says, and its file. */
const lines = [...read(PAGE).matchAll(/^ *- (.+) \(\[[\w-]+\]\(\.\.\/(test\/[\w/.-]+)\)\)$/gm)].map(
  ([, sentence, file]) => [sentence!, file!] as const,
);

/** Whether the file has the sentence as the title of a test, or of a group and of a test in it. */
function holds(file: string, sentence: string): boolean {
  const text = read(file);
  const words = sentence.split(' ');
  return words.some(
    (_, i) => text.includes(words.slice(0, i).join(' ')) && text.includes(words.slice(i).join(' ')),
  );
}

it('names its tests', () => {
  expect(lines.length).toBeGreaterThan(30);
  // A line that does not look like these would not be checked.
  expect(read(PAGE).match(/\.spec\.ts/g)).toHaveLength(lines.length);
  expect(holds('test/faults/kill.spec.ts', 'A process that is killed comes back')).toBe(false);
});

it.each(lines)('promises "%s", and %s holds it', (sentence, file) => {
  expect(holds(file, sentence)).toBe(true);
});
