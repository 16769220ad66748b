import 'reflect-metadata';
import { describe, expect, it } from 'vitest';
import {
  FutureCall,
  FutureCallHandlerError,
  FutureCallOptionsError,
  type FutureCallHandlerOptions,
} from '../../lib/index.js';

describe('@FutureCall', () => {
  const decorate = (name: unknown, options?: unknown) => () => {
    @FutureCall(name as string, options as FutureCallHandlerOptions)
    class Decorated {
      invoke() {}
    }
    return Decorated;
  };

  it.each([
    ['an empty name', '', /@FutureCall\(""\) on Decorated: the name is empty/],
    ['no name', undefined, /@FutureCall\(undefined\) on Decorated: the name is not a string/],
    ['a number', 5, /the name is not a string/],
    ['256 characters', 'x'.repeat(256), /the name is longer than 255 characters/],
    ['a NUL character', 'a\0b', /the name has a NUL character/],
    ['half a surrogate pair', 'a\ud800', /the name has half of a surrogate pair/],
  ])('refuses %s as a name', (_what, name, message) => {
    expect(decorate(name)).toThrow(FutureCallHandlerError);
    expect(decorate(name)).toThrow(message);
  });

  it.each(['x', 'send reminder', 'x'.repeat(255), '😀'.repeat(255), 'ünïcödé', `"quoted" 'name'`])(
    'takes the name %s',
    (name) => {
      expect(decorate(name)).not.toThrow();
    },
  );

  it.each([
    ['an unknown option', { concurency: 2 }, /has no option "concurency"\. Its options are concurrency/],
    ['concurrency 0', { concurrency: 0 }, /concurrency must be a whole number from 1 to 10000, but it is 0/],
    ['concurrency -1', { concurrency: -1 }, /but it is -1/],
    ['concurrency 1.5', { concurrency: 1.5 }, /but it is 1\.5/],
    ['concurrency NaN', { concurrency: NaN }, /but it is NaN/],
    ['concurrency Infinity', { concurrency: Infinity }, /but it is Infinity/],
    ['concurrency as text', { concurrency: '2' }, /but it is "2"/],
    ['concurrency null', { concurrency: null }, /but it is null/],
    ['too much concurrency', { concurrency: 10_001 }, /but it is 10001/],
    ['attempts 0', { attempts: 0 }, /attempts must be a whole number from 1 to 1000, but it is 0/],
    ['attempts -1', { attempts: -1 }, /attempts must be .*but it is -1/],
    ['attempts 1.5', { attempts: 1.5 }, /attempts must be .*but it is 1\.5/],
    ['attempts Infinity', { attempts: Infinity }, /attempts must be .*but it is Infinity/],
    ['attempts as text', { attempts: '5' }, /attempts must be .*but it is "5"/],
    ['too many attempts', { attempts: 1_001 }, /attempts must be .*but it is 1001/],
    ['a backoff of no kind', { backoff: {} }, /backoff must be \{ type: 'fixed', delay \}.*but it is \{\}/],
    ['a backoff of an unknown kind', { backoff: { type: 'linear' } }, /backoff must be .*"linear"/],
    ['a number as backoff', { backoff: 1_000 }, /backoff must be .*but it is 1000/],
    ['null as backoff', { backoff: null }, /backoff must be .*but it is null/],
    [
      'an async function as backoff',
      { backoff: async () => 1 },
      /backoff is an async function, and must answer at once/,
    ],
    [
      'a fixed backoff without a delay',
      { backoff: { type: 'fixed' } },
      /backoff\.delay: undefined is not a length/,
    ],
    [
      'a negative backoff',
      { backoff: { type: 'fixed', delay: -1 } },
      /backoff\.delay must be .*but it is -1/,
    ],
    [
      'a backoff in months',
      { backoff: { type: 'fixed', delay: { months: 1 } } },
      /backoff\.delay: "months" is not a unit of time here/,
    ],
    [
      'a fixed backoff with a maximum',
      { backoff: { type: 'fixed', delay: 1, max: 5 } },
      /backoff has no option "max"\. Its options are type, delay/,
    ],
    [
      'an exponential backoff with a wrong maximum',
      { backoff: { type: 'exponential', max: 'never' } },
      /backoff\.max: "never" is not a length of time/,
    ],
    ['null', null, /takes an object of options, not null/],
    ['a number', 5, /takes an object of options, not a number/],
  ])('refuses %s', (_what, options, message) => {
    expect(decorate('name', options)).toThrow(FutureCallOptionsError);
    expect(decorate('name', options)).toThrow(message);
    expect(decorate('name', options)).toThrow(/@FutureCall\('name'\) on Decorated/);
  });

  it.each<FutureCallHandlerOptions>([
    { concurrency: 1 },
    { concurrency: 10_000, attempts: 1_000 },
    { backoff: { type: 'fixed', delay: '5s' } },
    { backoff: { type: 'fixed', delay: 0 } },
    { backoff: { type: 'exponential' } },
    { backoff: { type: 'exponential', delay: { seconds: 1 }, max: '1h' } },
    { backoff: (attempt) => attempt * 1_000 },
  ])('takes the options %o', (options) => {
    expect(decorate('name', options)).not.toThrow();
  });

  it('takes an option that is undefined as not given', () => {
    expect(decorate('name', { concurrency: undefined })).not.toThrow();
  });

  it('is for one name: a second one is refused', () => {
    const twice = () => {
      @FutureCall('outer')
      @FutureCall('inner')
      class Twice {
        invoke() {}
      }
      return Twice;
    };
    expect(twice).toThrow(FutureCallHandlerError);
    expect(twice).toThrow(
      /@FutureCall\('outer'\) on Twice: the class is marked @FutureCall\('inner'\) already/,
    );
  });

  it('is not inherited: a subclass may have a name of its own', () => {
    const Base = decorate('base')();
    const extend = () => {
      @FutureCall('sub')
      class Sub extends Base {}
      return Sub;
    };
    expect(extend).not.toThrow();
  });
});
