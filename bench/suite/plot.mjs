import { parse, View } from 'vega';
import { compile } from 'vega-lite';

/** @import { Cell, Scenario } from '../types.js' */

const OURS = 'future-call';
const FONT = 'system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif';

/** Seen on light and on dark. */
const COLORS = { ours: '#e0234e', peer: '#8b949e', reference: '#8b949e66' };

/** A README is read in light and in dark: text follows the reader. */
const STYLE = `<style>
  text { fill: #1f2328 } .mark-text.role-axis-label text, .role-title-subtitle text { fill: #59636e }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .mark-text.role-axis-label text, .role-title-subtitle text { fill: #9198a1 }
  }
</style>`;

/**
 * A bar for everybody, ours in colour: the medians of one metric. As SVG.
 *
 * @param {Scenario} scenario
 * @param {Cell[]} cells
 */
export async function draw(scenario, cells) {
  const { metric: name } = /** @type {{ metric: string }} */ (scenario.plot);
  const metric = scenario.metrics[name];
  const values = cells
    .map(({ contender, variant, median }) => ({
      label: contender.label,
      variant,
      kind: contender.id === OURS ? 'ours' : contender.isReference ? 'reference' : 'peer',
      value: median[name],
      text: text(median[name], metric.digits),
    }))
    .filter(({ value }) => value !== undefined);
  const hasVariants = values.some(({ variant }) => variant !== '');
  const order = [...new Set(values.map(({ label }) => label))];
  const bars = {
    width: 420,
    height: { step: 24 },
    encoding: {
      y: { field: 'label', type: 'nominal', sort: order, title: null },
      x: { field: 'value', type: 'quantitative', axis: null, scale: { nice: false, padding: 0 } },
    },
    layer: [
      {
        mark: { type: 'bar', cornerRadiusEnd: 3, height: 15 },
        encoding: {
          color: {
            field: 'kind',
            type: 'nominal',
            legend: null,
            scale: { domain: Object.keys(COLORS), range: Object.values(COLORS) },
          },
        },
      },
      {
        mark: { type: 'text', align: 'left', dx: 5, clip: false },
        encoding: { text: { field: 'text', type: 'nominal' } },
      },
    ],
  };
  const what = metric.label + (metric.unit ? ` (${metric.unit})` : '');
  const { spec } = compile({
    data: { values },
    title: {
      text: scenario.title,
      subtitle: `${what}, ${metric.better === 'higher' ? 'more' : 'less'} is better`,
      anchor: 'start',
      frame: 'group',
      offset: 14,
    },
    padding: { left: 8, right: 60, top: 8, bottom: 8 },
    ...(hasVariants
      ? {
          facet: {
            row: {
              field: 'variant',
              type: 'nominal',
              sort: [...new Set(values.map(({ variant }) => variant))],
              title: null,
              header: { labelAngle: 0, labelAlign: 'left', labelAnchor: 'start', labelOrient: 'top' },
            },
          },
          resolve: { scale: { y: 'independent' } },
          spec: bars,
        }
      : bars),
    config: {
      background: null,
      font: FONT,
      title: { fontSize: 14, subtitleFontSize: 12, subtitlePadding: 5 },
      axis: { labelFontSize: 12, labelLimit: 260, ticks: false, domain: false, labelPadding: 8 },
      header: { labelFontSize: 12, labelFontWeight: 600, labelPadding: 4 },
      text: { fontSize: 12 },
      view: { stroke: null },
    },
  });
  const svg = await new View(parse(spec), { renderer: 'none' }).toSVG();
  return `${svg.replace(/(<svg[^>]*>)/, `$1${STYLE}`)}\n`;
}

/** @param {number | undefined} value */
function text(value, digits = 0) {
  if (value === undefined) return '';
  return value.toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits });
}
