import { drain } from './drain.mjs';

/** @import { Scenario } from '../types.js' */

/** @type {Scenario[]} */
export const scenarios = [drain];
