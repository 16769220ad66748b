/** @import { Goal } from '../types.js' */

/** @param {string} text @param {number} target @param {string} unit @param {number | undefined} value @returns {Goal} */
export const atLeast = (text, target, unit, value) => goal(text, '≥', target, unit, value);

/** @param {string} text @param {number} target @param {string} unit @param {number | undefined} value @returns {Goal} */
export const atMost = (text, target, unit, value) => goal(text, '≤', target, unit, value);

/** @returns {Goal} */
function goal(text, comparison, target, unit, value) {
  const met = value === undefined ? undefined : comparison === '≥' ? value >= target : value <= target;
  return { text, value, unit, target: `${comparison} ${target} ${unit}`.trim(), met };
}
