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
 * A table of medians, with the range of the runs and how each compares with ours.
 *
 * @param {Scenario} scenario
 * @param {Cell[]} cells
 * @param {Goal[]} goals
 */
export function describe(scenario, cells, goals) {
  const metrics = Object.entries(scenario.metrics);
  const hasVariants = cells.some(({ variant }) => variant !== '');
  const header = [
    ...(hasVariants ? [''] : []),
    'contender',
    ...metrics.flatMap(([, { label, unit }]) => [unit ? `${label} (${unit})` : label, 'runs', 'ours is']),
  ];
  const rows = cells.map((cell) => {
    const ours = cells.find(({ contender, variant }) => contender.id === OURS && variant === cell.variant);
    return [
      ...(hasVariants ? [cell.variant] : []),
      cell.contender.label,
      ...metrics.flatMap(([name, metric]) => [
        format(cell.median[name], metric),
        range(cell, name, metric),
        cell === ours ? '' : compare(ours?.median[name], cell.median[name], metric),
      ]),
    ];
  });
  const lines = [`${scenario.name}: ${scenario.title}`, '', ...table(header, rows)];
  if (goals.length > 0) {
    lines.push('', ...goals.map(describeGoal));
  }
  return lines.join('\n');
}

/** @param {Goal} goal */
function describeGoal({ text, value, unit, target, met }) {
  const mark = met === undefined ? '?' : met ? '✓' : '✗';
  const figure = value === undefined ? 'not measured' : `${significant(value)}${unit ? ` ${unit}` : ''}`;
  return `  ${mark} ${text}: ${figure} (goal ${target})`;
}

/** @param {string[]} header @param {string[][]} rows */
function table(header, rows) {
  const all = [header, ...rows];
  const widths = header.map((_, column) => Math.max(...all.map((row) => row[column].length)));
  const isText = header.map((_, column) => rows.every((row) => !/^[\d–]/.test(row[column])));
  const line = (row) =>
    `  ${row.map((cell, i) => (isText[i] ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))).join('  ')}`.trimEnd();
  return [
    line(header),
    `  ${'─'.repeat(widths.reduce((sum, width) => sum + width + 2, -2))}`,
    ...rows.map(line),
  ];
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

/** How ours compares: more than 1 is better, whatever is measured. */
function compare(ours, theirs, { better }) {
  if (ours === undefined || theirs === undefined) return '';
  const advantage = better === 'higher' ? ours / theirs : theirs / ours;
  return Number.isFinite(advantage) ? `${significant(advantage)} ×` : '';
}

/** @param {number} value */
const significant = (value) =>
  Math.abs(value) >= 100 ? Math.round(value).toLocaleString('en') : String(Number(value.toPrecision(3)));
