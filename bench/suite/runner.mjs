import { clearProgress, measuring } from './progress.mjs';
import { median } from './stats.mjs';

/** @import { Cell, Lab, Results, Scenario } from '../types.js' */

const ONE_VARIANT = [{ name: '' }];

/**
 * Measures a scenario: in each of the runs everybody in turn, so that what else the machine does hits all alike.
 *
 * @param {Lab} lab
 * @param {Scenario} scenario
 * @param {{ runs: number, only?: string[] }} options
 * @returns {Promise<{ cells: Cell[], results: Results }>}
 */
export async function runScenario(lab, scenario, { runs, only }) {
  /** @type {Cell[]} */
  const cells = [];
  for (const variant of scenario.variants ?? ONE_VARIANT) {
    for (const contender of scenario.contenders) {
      if (only && !only.includes(contender.id)) continue;
      if (variant.only && !variant.only.includes(contender.id)) continue;
      cells.push({ contender, variant: variant.name, samples: [], median: {}, errors: [] });
    }
  }
  for (let run = 1; run <= runs; run++) {
    for (const { contender, variant, samples, errors } of cells) {
      const what = [scenario.name, variant, contender.label].filter(Boolean).join(' · ');
      measuring(`${what} (run ${run} of ${runs})`);
      try {
        samples.push(
          await lab.withDatabase((database) => scenario.measure(lab, contender, database, variant)),
        );
      } catch (error) {
        if (lab.isClosing) throw error; // interrupted
        // The others are worth measuring all the same.
        errors.push(error instanceof Error ? error.message : String(error));
      }
    }
  }
  clearProgress();
  for (const cell of cells) {
    for (const name of Object.keys(scenario.metrics)) {
      cell.median[name] = median(cell.samples.map((sample) => sample[name]));
    }
  }
  return { cells, results: (contender, variant = '') => find(cells, contender, variant)?.median };
}

/** @param {Cell[]} cells @param {string} id @param {string} variant */
const find = (cells, id, variant) =>
  cells.find((cell) => cell.contender.id === id && cell.variant === variant);
