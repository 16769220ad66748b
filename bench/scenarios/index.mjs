import { backlog } from './backlog.mjs';
import { bulk } from './bulk.mjs';
import { burst } from './burst.mjs';
import { drain } from './drain.mjs';
import { handlers } from './handlers.mjs';
import { idle } from './idle.mjs';
import { latency } from './latency.mjs';
import { memory } from './memory.mjs';
import { pending } from './pending.mjs';
import { pinned } from './pinned.mjs';
import { precision } from './precision.mjs';
import { processes } from './processes.mjs';
import { schedule } from './schedule.mjs';
import { slow } from './slow.mjs';

/** @import { Scenario } from '../types.js' */

/** @type {Scenario[]} */
export const scenarios = [
  drain,
  processes,
  latency,
  precision,
  burst,
  slow,
  idle,
  pinned,
  pending,
  backlog,
  schedule,
  bulk,
  memory,
  handlers,
];
