/** Shows a value in an error message: short, on one line, and never throwing. */
export function show(value: unknown): string {
  const text = tryToDescribe(value);
  return text.length > 100 ? `${text.slice(0, 100)}…` : text;
}

function tryToDescribe(value: unknown): string {
  try {
    return describe(value);
  } catch {
    // A proxy, or a getter of the user's, that throws when it is looked at.
    return `something of type ${typeof value} that cannot be shown`;
  }
}

function describe(value: unknown): string {
  switch (typeof value) {
    case 'string':
      return JSON.stringify(value);
    case 'bigint':
      return `${value}n`;
    case 'function':
      return value.name === '' ? 'a function' : `function ${value.name}`;
    case 'object':
      return value === null ? 'null' : describeObject(value);
    default:
      return String(value);
  }
}

function describeObject(value: object): string {
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? 'Invalid Date' : value.toISOString();
  try {
    const json = JSON.stringify(value);
    // A Map, a Promise: what it is says more than that nothing of it is shown.
    const isSilent =
      json === undefined || (json === '{}' && Object.getPrototypeOf(value) !== Object.prototype);
    return isSilent ? whatItIs(value) : json;
  } catch {
    return Object.prototype.toString.call(value);
  }
}

function whatItIs(value: object): string {
  const tag = Object.prototype.toString.call(value);
  const { name } = value.constructor ?? {};
  return tag === '[object Object]' && name ? `an object of class ${name}` : tag;
}
