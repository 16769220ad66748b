import path from 'node:path';
import semver from 'semver';
import { describe, expect, it } from 'vitest';
import { read } from '../support/docs.js';

interface Manifest {
  readonly name: string;
  readonly version: string;
  readonly peerDependencies?: Record<string, string>;
  readonly peerDependenciesMeta?: Record<string, { optional?: boolean }>;
}

const ours = manifestIn('.');
const asked = Object.entries(ours.peerDependencies!);

/** What scripts/smoke.mjs runs the packed library on. */
const PAIRS = { oldest: 'test/package/oldest/node_modules', newest: 'node_modules' };

describe.each(Object.entries(PAIRS))('the %s packages', (_age, folder) => {
  const installed = asked.map(([name]) => manifestIn(path.join(folder, name)));
  const versions = new Map(installed.map(({ name, version }) => [name, version]));

  it('are such that npm installs the library beside them without force', () => {
    const refused = [ours, ...installed].flatMap(
      ({ name, peerDependencies = {}, peerDependenciesMeta = {} }) =>
        Object.entries(peerDependencies)
          .filter(([peer]) => versions.has(peer) || !peerDependenciesMeta[peer]?.optional)
          .filter(([peer, range]) => !semver.satisfies(versions.get(peer) ?? '', range))
          .map(([peer, range]) => `${name} asks for ${peer} ${range}, and there is ${versions.get(peer)}`),
    );
    expect(refused).toEqual([]);
  });
});

describe.each(asked)('of what package.json allows, %s %s,', (name, range) => {
  const lines = range.split(' || ').map((line) => semver.minVersion(line)!);

  it('the oldest packages have the oldest', () => {
    expect(versionIn(PAIRS.oldest, name)).toBe(lines[0]!.version);
  });

  it('the newest packages have the newest major version', () => {
    expect(semver.major(versionIn(PAIRS.newest, name))).toBe(lines.at(-1)!.major);
  });
});

function versionIn(folder: string, name: string): string {
  return manifestIn(path.join(folder, name)).version;
}

function manifestIn(folder: string): Manifest {
  return JSON.parse(read(path.join(folder, 'package.json'))) as Manifest;
}
