import { describe, expect, it } from 'vitest';
import { FutureCallSpeed } from '../../lib/engine/future-call.speed.js';

interface Work {
  /** How many calls are started at once. */
  calls: number;
  /** From the start of each to its end, in milliseconds. */
  take: number;
  /** For how long each start keeps the event loop, in milliseconds. */
  block?: number;
}

/** Starts calls one after the other, and ends them all. Answers with the time when the last one has ended. */
function work(speed: FutureCallSpeed, from: number, { calls, take, block = 0 }: Work): number {
  let now = from;
  for (let i = 0; i < calls; i++) speed.started((now += block), block);
  now = Math.max(now, from + take);
  for (let i = 0; i < calls; i++) speed.ended(now, take);
  return now;
}

const TEN_SLOTS = 10;
const ALONE = 1;

describe('what is claimed ahead', () => {
  it('is nothing for a handler that has ended none', () => {
    const speed = new FutureCallSpeed();
    expect(speed.perWindow(0, TEN_SLOTS, ALONE)).toBe(0);
    speed.started(0, 0);
    expect(speed.perWindow(100, TEN_SLOTS, ALONE)).toBe(0);
  });

  it('is what ends in 50 ms', () => {
    const speed = new FutureCallSpeed();
    let now = 0;
    for (let i = 0; i < 10; i++) now = work(speed, now, { calls: 10, take: 10 });
    expect(speed.perWindow(now, TEN_SLOTS, ALONE)).toBe(50);
    expect(speed.perWindow(now, 2, ALONE)).toBe(10);
  });

  it('is a part of it for each of several handlers', () => {
    const speed = new FutureCallSpeed();
    const now = work(speed, 0, { calls: 100, take: 10 });
    expect(speed.perWindow(now, TEN_SLOTS, 1 / 5)).toBe(10);
  });

  it('grows eightfold at the most, however fast ten calls were', () => {
    const speed = new FutureCallSpeed();
    let now = work(speed, 0, { calls: 10, take: 0.01 });
    expect(speed.perWindow(now, TEN_SLOTS, ALONE)).toBe(80);
    now = work(speed, now, { calls: 80, take: 0.1 });
    expect(speed.perWindow(now, TEN_SLOTS, ALONE)).toBe(720);
  });

  it.each([51, 200, 2_000])('is nothing where calls take %s ms, although ten end at once', (take) => {
    const speed = new FutureCallSpeed();
    let now = 0;
    for (let i = 0; i < 3; i++) {
      now = work(speed, now, { calls: 10, take });
      expect(speed.perWindow(now, TEN_SLOTS, ALONE)).toBe(0);
    }
  });

  it('is nothing where one call of ten takes 2 s, once that is known', () => {
    const speed = new FutureCallSpeed();
    let now = work(speed, 0, { calls: 90, take: 1 });
    for (let i = 0; i < 10; i++) speed.ended((now += 0.1), 2_000);
    expect(speed.perWindow(now, TEN_SLOTS, ALONE)).toBe(0);
  });

  it('is believed again after a call that was slow by exception', () => {
    const speed = new FutureCallSpeed();
    let now = work(speed, 0, { calls: 1_000, take: 0.1 });
    speed.ended(now, 2_000);
    expect(speed.perWindow(now, TEN_SLOTS, ALONE)).toBe(0);
    now = work(speed, now, { calls: 300, take: 0.1 });
    expect(speed.perWindow(now, TEN_SLOTS, ALONE)).toBeGreaterThan(1_000);
  });

  it.each([1, 5, 10])(
    'of handlers that keep the event loop for %s ms is what starts in 50 ms, slots or not',
    (block) => {
      const speed = new FutureCallSpeed();
      const now = work(speed, 0, { calls: 100, take: block, block });
      expect(speed.perWindow(now, TEN_SLOTS, ALONE)).toBe(50 / block);
      expect(speed.startsPerWindow(now, 1)).toBeCloseTo(50 / block);
    },
  );

  it('is nothing after a second without calls, and forgotten after the next start', () => {
    const speed = new FutureCallSpeed();
    const now = work(speed, 0, { calls: 1_000, take: 0.1 });
    expect(speed.perWindow(now + 1_000, TEN_SLOTS, ALONE)).toBeGreaterThan(0);
    expect(speed.perWindow(now + 1_001, TEN_SLOTS, ALONE)).toBe(0);
    speed.started(now + 1_001, 0);
    expect(speed.perWindow(now + 1_001, TEN_SLOTS, ALONE)).toBe(0);
  });

  it('is nothing once its calls turned out to hang', () => {
    const speed = new FutureCallSpeed();
    const now = work(speed, 0, { calls: 1_000, take: 0.1 });
    speed.forget();
    expect(speed.perWindow(now, TEN_SLOTS, ALONE)).toBe(0);
    expect(speed.startsPerWindow(now, 1)).toBe(10);
  });
});
