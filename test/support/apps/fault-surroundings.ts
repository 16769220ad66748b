/** What is wrong around this app. Imported first: it must be in place before anything else is loaded. */
import pg from 'pg';

const { CLOCK_OFFSET = '0', THROWING_PARSERS, QUERY_TIMEOUT } = process.env;

// The clock of the machine: what a process reads of it is this, and nothing else.
const offset = Number(CLOCK_OFFSET);
if (offset !== 0) {
  const RealDate = Date;
  globalThis.Date = class extends RealDate {
    constructor(...args: unknown[]) {
      super(...((args.length === 0 ? [RealDate.now() + offset] : args) as [number]));
    }
    static override now = () => RealDate.now() + offset;
  } as DateConstructor;
}

// An app that wants to notice every column of these types which it has not thought of.
for (const oid of JSON.parse(THROWING_PARSERS ?? '[]') as number[]) {
  pg.types.setTypeParser(oid, () => {
    throw new Error(`This app reads no column of type ${oid}`);
  });
}

if (QUERY_TIMEOUT !== undefined) pg.defaults.query_timeout = Number(QUERY_TIMEOUT);
