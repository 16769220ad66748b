import fs from 'node:fs/promises';
import path from 'node:path';

/** @import { Database, Lab } from '../types.js' */

/**
 * Counts every statement that arrives in a database from now on, whoever sends it and whatever it is (also BEGIN and
 * SET, which counters of transactions or of plans miss): the server logs them all, and the log is counted. Our own
 * connection was there before, and is not logged.
 *
 * @param {Lab} lab
 * @param {Database} database
 */
export async function countStatements({ server }, { name, client }) {
  await client.query(`alter database ${name} set log_statement = 'all'`);
  const file = path.join(server.dataDir, 'server.log');
  const start = (await fs.stat(file)).size;
  return {
    async count() {
      const log = (await fs.readFile(file)).subarray(start).toString();
      return log.match(/ LOG: {2}(statement|execute [^\n:]*):/g)?.length ?? 0;
    },
  };
}
