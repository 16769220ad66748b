/** What keeps a text out of PostgreSQL's `text` and `jsonb`, in words, or undefined when nothing does. */
export function textProblem(text: string): string | undefined {
  if (text.includes('\0')) return 'a NUL character, which PostgreSQL cannot store';
  // In the language since ES2024; Node has had it since 20.
  if (!(text as unknown as { isWellFormed(): boolean }).isWellFormed()) {
    return 'half of a surrogate pair, which UTF-8 cannot carry';
  }
  return undefined;
}

/** What ends a line somewhere: in a terminal, or for whoever reads a log line by line. */
const BREAKS = /\s*[\n\v\f\r\u0085\u2028\u2029]\s*/g;
const UNQUOTED_BREAK = /[\u0085\u2028\u2029]/g;

/** The text on one line. */
export const onOneLine = (text: string): string => text.replaceAll(BREAKS, ' ');

/** A name or an identifier for a message: in quotes and on one line, whoever has chosen it. */
export function quoted(label: string): string {
  return JSON.stringify(label).replaceAll(
    UNQUOTED_BREAK,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

/** "1 call", "2 calls". */
export function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}

/** What is wrong with a name or an identifier, in words, or undefined when nothing is. */
export function labelProblem(label: unknown): string | undefined {
  if (typeof label !== 'string') return 'is not a string';
  if (label.length === 0) return 'is empty';
  if (label.length > MAX_LABEL && [...label].length > MAX_LABEL)
    return `is longer than ${MAX_LABEL} characters`;
  const problem = textProblem(label);
  return problem && `has ${problem}`;
}

const MAX_LABEL = 255;
