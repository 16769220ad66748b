import { show } from './show.js';

/** A step into a value: a property, or an index of an array. */
export interface PathKey {
  readonly key: string;
  readonly isIndex: boolean;
}

/** Where something is in `data`, as one would write it: `data.list[1]."first name"`. */
export function pathOf(keys: readonly PathKey[]): string {
  const steps = keys.map(({ key, isIndex }) =>
    isIndex ? `[${key}]` : `.${/^[\w$]+$/.test(key) ? key : show(key)}`,
  );
  return `data${steps.join('')}`;
}
