import os from 'node:os';

/** @import { Cell, Goal, Metric, Scenario } from '../types.js' */

const OURS = 'future-call';

/** What the figures were measured on. @param {{ version: string }} server */
export function machine({ version }) {
  const cpus = os.cpus();
  return {
    cpu: cpus[0]?.model.trim() ?? 'unknown',
    cores: cpus.length,
    memory: `${Math.round(os.totalmem() / 2 ** 30)} GB`,
    os: `${os.type()} ${os.release()}`,
    node: process.version,
    postgres: version,
    load: os.loadavg().map((load) => Number(load.toFixed(2))),
  };
}

/**
 * A table of medians, with the range of the runs and how ours compares with each; then the goals.
 *
 * @param {Scenario} scenario
 * @param {Cell[]} cells
 * @param {Goal[]} goals
 */
export function describe(scenario, cells, goals) {
  const hasVariants = cells.some(({ variant }) => variant !== '');
  const isRepeated = cells.some(({ samples }) => samples.length > 1);
  const columns = [
    ...(hasVariants ? [{ header: '', of: ({ variant }) => variant, isText: true }] : []),
    { header: 'contender', of: ({ contender }) => contender.label, isText: true },
    ...Object.entries(scenario.metrics).flatMap(([name, metric]) => [
      {
        header: metric.label + (metric.unit ? ` (${metric.unit})` : ''),
        of: (cell) => format(cell.median[name], metric),
      },
      ...(isRepeated ? [{ header: 'runs', of: (cell) => range(cell, name, metric) }] : []),
      ...(metric.better
        ? [{ header: 'ours is', of: (cell) => compare(oursIn(cells, cell), cell, name, metric) }]
        : []),
    ]),
  ];
  return [
    `${scenario.name}: ${scenario.title}`,
    '',
    ...table(columns, cells),
    ...(goals.length > 0 ? [''] : []),
    ...goals.map(describeGoal),
    ...cells.flatMap((cell) => cell.errors.map((error) => describeError(cell, error))),
  ].join('\n');
}

/** Our cell of the same variant. @param {Cell[]} cells @param {Cell} of */
const oursIn = (cells, of) =>
  cells.find(({ contender, variant }) => contender.id === OURS && variant === of.variant);

/** @param {Goal} goal */
function describeGoal({ text, value, unit, target, met }) {
  const mark = met === undefined ? '?' : met ? '✓' : '✗';
  const figure = value === undefined ? 'not measured' : `${significant(value)} ${unit}`;
  return `  ${mark} ${text}: ${figure} (goal ${target})`;
}

/** @param {Cell} cell @param {string} error */
const describeError = ({ contender, variant }, error) =>
  `  ! ${[contender.label, variant].filter(Boolean).join(', ')}: ${error.split('\n')[0]}`;

/** @param {{ header: string, of: (cell: Cell) => string, isText?: boolean }[]} columns @param {Cell[]} cells */
function table(columns, cells) {
  const rows = [
    columns.map(({ header }) => header),
    ...cells.map((cell) => columns.map(({ of }) => of(cell))),
  ];
  const widths = columns.map((_, i) => Math.max(...rows.map((row) => row[i].length)));
  const lines = rows.map((row) =>
    row
      .map((text, i) => (columns[i].isText ? text.padEnd(widths[i]) : text.padStart(widths[i])))
      .join('  ')
      .trimEnd(),
  );
  lines.splice(1, 0, '─'.repeat(Math.max(...lines.map((line) => line.length))));
  return lines.map((line) => `  ${line}`);
}

/** @param {number | undefined} value @param {Metric} metric */
function format(value, { digits = 0 }) {
  if (value === undefined) return '–';
  return value.toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** @param {Cell} cell @param {string} name @param {Metric} metric */
function range({ samples }, name, metric) {
  const values = samples.map((sample) => sample[name]).filter((value) => value !== undefined);
  if (values.length < 2) return '';
  return `${format(Math.min(...values), metric)} … ${format(Math.max(...values), metric)}`;
}

/**
 * How ours compares: more than 1 is better, whatever is measured.
 *
 * @param {Cell | undefined} ours @param {Cell} theirs @param {string} name @param {Metric} metric
 */
function compare(ours, theirs, name, { better }) {
  if (ours === theirs) return '';
  const [a, b] = [ours?.median[name], theirs.median[name]];
  if (a === undefined || b === undefined) return '';
  const advantage = better === 'higher' ? a / b : b / a;
  return Number.isFinite(advantage) ? `${significant(advantage)} ×` : '';
}

/** @param {number} value */
const significant = (value) =>
  Math.abs(value) >= 100 ? Math.round(value).toLocaleString('en') : String(Number(value.toPrecision(3)));
