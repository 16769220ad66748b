// node scripts/pack.mjs [file]: packs what the build has made, as npm would publish it.
import { execFileSync } from 'node:child_process';
import * as fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const target = path.resolve(process.argv[2] ?? 'package.tgz');
const root = fileURLToPath(new URL('..', import.meta.url));
const folder = fs.mkdtempSync(`${target}-`);
try {
  // Without scripts: prepack would build again, under the feet of what runs from dist/.
  execFileSync('npm', ['pack', '--ignore-scripts', '--pack-destination', folder], {
    cwd: root,
    shell: process.platform === 'win32',
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  const [file = ''] = fs.readdirSync(folder);
  fs.renameSync(path.join(folder, file), target);
} finally {
  fs.rmSync(folder, { recursive: true, force: true });
}
