/**
 * The measured process' end: calls the methods that the suite names, and answers.
 *
 * @param {Record<string, (argument: any) => unknown>} methods
 */
export function serve(methods) {
  process.on('message', async ({ id, method, argument }) => {
    try {
      process.send?.({ id, result: await methods[method](argument) });
    } catch (error) {
      process.send?.({ id, error: error instanceof Error ? (error.stack ?? error.message) : String(error) });
    }
  });
  // The suite is gone, however it ended: nobody else ends this process.
  process.once('disconnect', () => process.exit(1));
  // Ctrl-C goes to the whole group; the suite decides what is to end when.
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => {});
}
