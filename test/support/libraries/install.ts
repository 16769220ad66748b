/** Run by Node when a bundle is new: keeps what V8 has compiled, and makes the packages that lead to the bundle. */
import * as fs from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import load = require('./load.cjs');

/** At once: another run's test may be reading it. */
function write(file: string, content: string | Buffer): void {
  fs.writeFileSync(`${file}.${process.pid}`, content);
  fs.renameSync(`${file}.${process.pid}`, file);
}

const loader = path.join(import.meta.dirname, 'load.cjs');

for (const [name, exports] of Object.entries(load.libraries)) {
  const folder = path.join(load.packages, name);
  const names = Object.keys(exports).filter((key) => key !== 'default' && key !== 'module.exports');
  fs.mkdirSync(folder, { recursive: true });
  write(
    path.join(folder, 'package.json'),
    JSON.stringify({ name, exports: { import: './index.mjs', require: './index.cjs' } }),
  );
  // TypeORM requires pg by its name, and gets what pg is without ES modules.
  write(
    path.join(folder, 'index.cjs'),
    `const library = require(${JSON.stringify(loader)}).libraries['${name}'];
module.exports = library.default ?? library;
`,
  );
  write(
    path.join(folder, 'index.mjs'),
    `import load from '${pathToFileURL(loader).href}';
const library = load.libraries['${name}'];
export default library.default;
export const { ${names.join(', ')} } = library;
`,
  );
}
write(load.compiled, load.script.createCachedData());
