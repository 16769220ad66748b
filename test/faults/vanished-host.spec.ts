import { execFileSync, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import * as fs from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { figure, inWorldOfItsOwn } from './support/in-world.js';

/** A host of the test's own: a network namespace, and the two ends of the wire between it and this one. */
const NAME = `fc${randomBytes(3).toString('hex')}`;
// Two runs on one machine must not share a wire.
const SUBNET = `10.213.${randomBytes(1)[0]}`;
const [HERE, THERE] = [`${SUBNET}.1`, `${SUBNET}.2`];
/** Milliseconds after which PostgreSQL ends a silent session by itself, at the least: keepalives must be sooner. */
const IDLE_SESSION_TIMEOUT = 30_000;
const ip = (...args: string[]) => execFileSync('ip', args, { stdio: 'pipe' });

function canMakeHosts(): boolean {
  const made = spawnSync('ip', ['netns', 'add', NAME]).status === 0;
  if (made) spawnSync('ip', ['netns', 'delete', NAME]);
  return made;
}

describe.skipIf(!canMakeHosts())('A host that vanishes (network namespaces: root, package iproute2)', () => {
  it(
    'is noticed by keepalives long before its session would be idle for too long, and its calls are interrupted',
    inWorldOfItsOwn(
      async (world, server) => {
        ip('netns', 'add', NAME);
        world.onEnd(() => ip('netns', 'delete', NAME));
        ip('link', 'add', `${NAME}a`, 'type', 'veth', 'peer', 'name', `${NAME}b`, 'netns', NAME);
        ip('address', 'add', `${HERE}/30`, 'dev', `${NAME}a`);
        ip('link', 'set', `${NAME}a`, 'up');
        ip('-n', NAME, 'address', 'add', `${THERE}/30`, 'dev', `${NAME}b`);
        ip('-n', NAME, 'link', 'set', `${NAME}b`, 'up');
        fs.appendFileSync(path.join(server.dataDir, 'pg_hba.conf'), `\nhost all all ${THERE}/32 trust\n`);
        await world.database.query('select pg_reload_conf()');

        const url = new URL(world.database.url);
        url.hostname = HERE;
        url.port = String(server.port);
        url.search = '';
        const victim = await world.run({ url: url.href, within: ['ip', 'netns', 'exec', NAME] });
        const id = await world.schedule('call', { hold: true });
        await victim.waitFor('holding');
        const instance = await world.instanceOf(victim);
        const survivor = await world.run();

        // No FIN and no RST: the wire is cut.
        const cutAt = await world.now();
        ip('link', 'set', `${NAME}a`, 'down');
        const [ended] = await world.untilEnded([id]);
        expect(ended).toMatchObject({ outcome: 'interrupted', attempt: 1 });
        figure('ms from the cut to the outcome', ended!.finishedAt - cutAt);
        expect(ended!.finishedAt - cutAt).toBeLessThan(IDLE_SESSION_TIMEOUT);
        expect(await world.backendOf(instance)).toBeUndefined();
        const log = fs.readFileSync(path.join(server.dataDir, 'server.log'), 'utf8');
        expect(log).toMatch(/could not receive data from client/);
        expect(log).not.toMatch(/idle-session timeout/);
        await survivor.waitForOutput(/was taken for dead: .* Interrupted 1 call/);
        await victim.kill();
      },
      { listen: true, settings: { listen_addresses: '*' } },
    ),
  );
});
