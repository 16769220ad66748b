import { execFile } from 'node:child_process';
import * as fs from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { rolldown, type Plugin } from 'rolldown';
import manifest from '../../../package.json' with { type: 'json' };

/** What the library imports, and with it every app of test/support/apps. */
const LIBRARIES = Object.keys({ ...manifest.dependencies, ...manifest.peerDependencies });

const ENTRY = 'libraries';

/** A module with all of them, by name. */
const everything: Plugin = {
  name: 'everything',
  resolveId: (id) => (id === ENTRY ? id : null),
  load: (id) =>
    id === ENTRY
      ? [
          ...LIBRARIES.map((name, i) => `import * as library${i} from '${name}';`),
          `export const libraries = { ${LIBRARIES.map((name, i) => `'${name}': library${i}`).join(', ')} };`,
        ].join('\n')
      : null,
};

/** What a library requires in this way is not bundled otherwise, but loaded once more: TypeORM by @nestjs/typeorm. */
const requires: Plugin = {
  name: 'requires',
  transform: (code) => code.replace('const require = createRequire(import.meta.url);', ''),
};

/**
 * Puts Nest, TypeORM, pg and whatever else the apps load into one file, as it is in node_modules, and has V8 compile
 * it once. To find, read and compile a thousand files is two thirds of what it costs to start an app otherwise.
 *
 * `apps` is where the apps were compiled to: it gets a node_modules of its own, which Node finds first.
 */
export async function bundleLibraries(apps: string): Promise<void> {
  const folder = path.join(apps, 'node_modules/libraries');
  const code = await bundle();
  await fs.mkdir(folder, { recursive: true });
  // V8 compares nothing but the length with what it has compiled before.
  await fs.rm(path.join(folder, 'libraries.compiled'), { force: true });
  const file = path.join(folder, 'libraries.cjs');
  // At once: another run's test may be reading it.
  await fs.writeFile(`${file}.${process.pid}`, code);
  await fs.rename(`${file}.${process.pid}`, file);
  // What V8 has compiled is taken by the same Node only, with the same flags: none, as the apps are started.
  const install = path.join(apps, 'test/support/libraries/install.js');
  await promisify(execFile)(process.execPath, [install], { env: { ...process.env, NODE_OPTIONS: '' } });
}

async function bundle(): Promise<string> {
  const build = await rolldown({
    input: ENTRY,
    platform: 'node',
    // Nothing is left out. What is optional and not installed still cannot be required.
    treeshake: false,
    logLevel: 'silent',
    plugins: [everything, requires],
  });
  try {
    const { output } = await build.generate({ format: 'cjs', keepNames: true, codeSplitting: false });
    return output[0].code;
  } finally {
    await build.close();
  }
}
