import type { DataSource } from 'typeorm';
import { describe, expect, it } from 'vitest';
import { connectionOptions, placeOf } from '../../lib/store/future-call.connection-options.js';

const password = () => 'of the data source';
const POOL = { host: 'pooler', port: 6432, user: 'app', database: 'calls', password };
const CA = { ca: 'a certificate' };

/** What is made of a URL beside a pool with these options. */
function made(url: string | undefined, pool: object = {}) {
  const dataSource = { driver: { master: { options: { ...POOL, ...pool } } } } as unknown as DataSource;
  return connectionOptions(dataSource, url);
}

describe('what the session connects with', () => {
  it('is what the pool has, without a sessionUrl', () => {
    expect(made(undefined, { ssl: CA })).toMatchObject({ ...POOL, ssl: CA });
  });

  it.each([
    ['postgres://', { user: 'app', database: 'calls', password }],
    ['postgres://direct', { host: 'direct', port: 5432, user: 'app', database: 'calls', password }],
    ['postgres://app@direct:5433/calls', { port: 5433, user: 'app', password }],
    ['postgresql://app:own@direct/other', { user: 'app', database: 'other', password: 'own' }],
    ['postgres://app:o:w@n@direct/calls', { host: 'direct', password: 'o:w@n' }],
    ['postgres://direct/calls?user=app&password=own', { user: 'app', password: 'own' }],
    // Whose password is not the pool's user's.
    ['postgres://other@direct/calls', { user: 'other', password: null }],
    ['postgres:///calls?host=/run/postgresql', { host: '/run/postgresql', user: 'app', password }],
  ])('takes from the data source what %s does not state', (url, expected) => {
    expect(made(url)).toMatchObject(expected);
  });

  it.each([
    ['postgres://direct/calls', CA],
    ['postgres://direct/calls?sslmode=verify-full', CA],
    ['postgres://direct/calls?sslmode=require', CA],
    ['postgres://direct/calls?ssl=true', CA],
    ['postgres://direct/calls?sslmode=disable', false],
    ['postgres://direct/calls?sslmode=no-verify', { ...CA, rejectUnauthorized: false }],
    // A socket has no TLS.
    ['postgres:///calls?host=/run/postgresql', false],
  ])('has the TLS that %s states, and the certificates of the data source', (url, ssl) => {
    expect(made(url, { ssl: CA }).ssl).toEqual(ssl);
  });

  it('is as strict as the URL says, and otherwise as the data source is', () => {
    // pg hides the key of the one that it is given.
    const strictness = (url: string) => {
      const { ssl } = made(url, { ssl: { ...CA, key: 'a key', rejectUnauthorized: false } });
      return ssl === true || ssl === false || ssl === undefined ? ssl : { ...ssl, key: ssl.key };
    };
    const lax = { ...CA, key: 'a key', rejectUnauthorized: false };
    expect(strictness('postgres://direct')).toEqual(lax);
    expect(strictness('postgres://direct?sslmode=require')).toEqual(lax);
    expect(strictness('postgres://direct?sslmode=verify-full')).toEqual({ ...CA, key: 'a key' });
  });

  it('is named without a password', () => {
    expect(placeOf(made('postgres://app:secret@direct:5433/calls'))).toBe('"calls" at direct:5433');
  });
});
