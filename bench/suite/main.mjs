// The suite itself; `bench/run.mjs` starts it under the Node that everybody is measured on.
import fs from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { contenders } from '../contenders/index.mjs';
import { scenarios } from '../scenarios/index.mjs';
import { openLab } from './lab.mjs';
import { draw } from './plot.mjs';
import { clearProgress, progress } from './progress.mjs';
import { describe, machine } from './report.mjs';
import { runScenario } from './runner.mjs';

const USAGE = `npm run bench -- [scenario…] [options]

Measures nestjs-future-call and its peers in turn, on an embedded PostgreSQL with its durable defaults.

Scenarios (all when none is named):
${scenarios.map(({ name, title }) => `  ${name.padEnd(10)} ${title}`).join('\n')}

Options:
  --runs N         how often everybody is measured; the median counts (3, or 1 with --quick)
  --only A,B       measure these contenders only: ${contenders.map(({ id }) => id).join(', ')}
  --quick          small sizes: whether everything works, not how fast
  --json FILE      write all figures there
  --plots FOLDER   draw the figures there, as SVG
  --profile FOLDER write a CPU profile of every process that runs calls there`;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    runs: { type: 'string' },
    only: { type: 'string' },
    quick: { type: 'boolean', default: false },
    json: { type: 'string' },
    plots: { type: 'string' },
    profile: { type: 'string' },
    help: { type: 'boolean', short: 'h', default: false },
  },
});

const unknown = positionals.filter((name) => !scenarios.some((scenario) => scenario.name === name));
const only = values.only?.split(',');
const strangers = (only ?? []).filter((id) => !contenders.some((contender) => contender.id === id));
const runs = Number(values.runs ?? (values.quick ? 1 : 3));
if (values.help || unknown.length > 0 || strangers.length > 0 || !Number.isInteger(runs) || runs < 1) {
  if (unknown.length > 0) console.error(`There is no scenario ${unknown.join(', ')}.\n`);
  if (strangers.length > 0) console.error(`There is no contender ${strangers.join(', ')}.\n`);
  console.log(USAGE);
  process.exit(values.help ? 0 : 2);
}

const chosen = scenarios.filter(({ name }) => positionals.length === 0 || positionals.includes(name));
const lab = await openLab({ quick: values.quick, progress, profile: values.profile });

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.once(signal, async () => {
    clearProgress();
    // What is being measured fails by that.
    await lab.close();
    process.exit(128 + os.constants.signals[signal]);
  });
}

const report = {
  at: new Date().toISOString(),
  quick: values.quick,
  runs,
  machine: machine(lab.server),
  scenarios: {},
};
try {
  const { cpu, cores, node, postgres, load } = report.machine;
  console.log(`${cpu}, ${cores} cores; Node ${node}, PostgreSQL ${postgres}; load ${load[0]}\n`);
  for (const scenario of chosen) {
    const { cells, results } = await runScenario(lab, scenario, {
      runs: values.runs ? runs : (scenario.runs ?? runs),
      only,
    });
    const goals = scenario.goals?.(results) ?? [];
    console.log(`${describe(scenario, cells, goals)}\n`);
    // Slow is no failure; not measured is.
    if (cells.some(({ errors }) => errors.length > 0)) process.exitCode = 1;
    report.scenarios[scenario.name] = {
      title: scenario.title,
      metrics: scenario.metrics,
      results: cells.map(({ contender, variant, median, samples }) => ({
        contender: contender.label,
        about: contender.about,
        ...(variant && { variant }),
        median,
        samples,
      })),
      goals,
    };
    if (values.json) await fs.writeFile(values.json, `${JSON.stringify(report, undefined, 2)}\n`);
    if (values.plots && scenario.plot) {
      await fs.mkdir(values.plots, { recursive: true });
      await fs.writeFile(path.join(values.plots, `${scenario.name}.svg`), await draw(scenario, cells));
    }
  }
} catch (error) {
  if (!lab.isClosing) throw error;
} finally {
  await lab.close();
}
