import path from 'node:path';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

/** What takes longest in a run, and mostly waits, by folder or file. */
const LONGEST = ['e2e/sample', 'faults', 'model'];

/**
 * The files that take longest begin, and the others fill the gaps: one that begins last runs alone in the end.
 * vitest knows how long each took only where it has run before, and otherwise goes by size.
 */
export class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    // oxlint-disable-next-line unicorn/no-array-sort -- it is vitest's, and makes a new one
    const sorted = await super.sort(files);
    return sorted.toSorted((a, b) => rank(a) - rank(b));
  }
}

function rank({ moduleId }: TestSpecification): number {
  const file = path.relative(path.join(import.meta.dirname, '..'), moduleId).replaceAll(path.sep, '/');
  const place = LONGEST.findIndex((name) => file.startsWith(name));
  return place < 0 ? LONGEST.length : place;
}
