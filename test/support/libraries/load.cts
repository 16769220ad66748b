/** Loads what `bundle.ts` has made: in every process of an app, in place of the libraries in node_modules. */
import fs = require('node:fs');
import path = require('node:path');
import vm = require('node:vm');

/** Where Node looks for packages first, from where the apps are compiled to. */
const packages = path.resolve(__dirname, '../../../node_modules');
// In a folder of its own: Node 20 never comes to an end with a stack that has a file of node_modules itself.
const folder = path.join(packages, 'libraries');
const file = path.join(folder, 'libraries.cjs');
const compiled = path.join(folder, 'libraries.compiled');

// As Node's own loader does it, which takes no compiled code in Node 20.
const script = new vm.Script(
  `(function (exports, require, module, __filename, __dirname) {${fs.readFileSync(file, 'utf8')}\n})`,
  {
    filename: file,
    ...(fs.existsSync(compiled) && { cachedData: fs.readFileSync(compiled) }),
    importModuleDynamically: vm.constants.USE_MAIN_CONTEXT_DEFAULT_LOADER,
  },
);
const bundle = { exports: {} as { libraries: Readonly<Record<string, Readonly<Record<string, unknown>>>> } };
const run = script.runInThisContext() as (...args: unknown[]) => void;
run(bundle.exports, require, bundle, file, folder);

export = { script, packages, compiled, libraries: bundle.exports.libraries };
