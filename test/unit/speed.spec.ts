import { describe, expect, it } from 'vitest';
import { FutureCallSpeed } from '../../lib/engine/future-call.speed.js';

/** A handler that ends `count` calls in so many milliseconds, and then has none. */
function work(speed: FutureCallSpeed, from: number, count: number, milliseconds: number): number {
  speed.begin(from);
  for (let i = 0; i < count; i++) speed.count();
  speed.pause(from + milliseconds);
  return from + milliseconds;
}

describe('what is claimed ahead', () => {
  it('is nothing for a handler that has ended none', () => {
    const speed = new FutureCallSpeed();
    expect(speed.perWindow(0)).toBe(0);
    speed.begin(0);
    expect(speed.perWindow(100)).toBe(0);
  });

  it('is what ends in 50 ms', () => {
    const speed = new FutureCallSpeed();
    work(speed, 0, 1_000, 100);
    expect(speed.perWindow(100)).toBe(500);
  });

  it('grows eightfold at the most, however fast ten calls were', () => {
    const speed = new FutureCallSpeed();
    let now = work(speed, 0, 10, 0.01);
    expect(speed.perWindow(now)).toBe(80);
    now = work(speed, now, 90, 0.1);
    expect(speed.perWindow(now)).toBe(720);
  });

  it('does not count the time in which it had no calls', () => {
    const speed = new FutureCallSpeed();
    work(speed, 0, 100, 10);
    work(speed, 500, 100, 10);
    expect(speed.perWindow(510)).toBe(500);
  });

  it('shrinks by and by when the handler slows down, also while it is stuck', () => {
    const speed = new FutureCallSpeed();
    const now = work(speed, 0, 1_000, 50);
    speed.begin(now);
    expect(speed.perWindow(now + 10)).toBe(500);
    expect(speed.perWindow(now + 20)).toBe(250);
    expect(speed.perWindow(now + 22)).toBe(250);
  });

  it('is forgotten after a second without calls', () => {
    const speed = new FutureCallSpeed();
    const now = work(speed, 0, 1_000, 50);
    expect(speed.perWindow(now + 1_000)).toBe(1_000);
    expect(speed.perWindow(now + 1_001)).toBe(0);
    speed.begin(now + 1_001);
    expect(speed.perWindow(now + 1_001)).toBe(0);
  });
});
