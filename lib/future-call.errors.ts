/**
 * The base of every error this library throws itself. Errors of the database
 * (connection, deadlock, serialization) are not wrapped: an app's own
 * transaction retry looks at them.
 */
export abstract class FutureCallError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** An option of the module, of a handler or of a single call has a wrong value, or a name that does not exist. */
export class FutureCallOptionsError extends FutureCallError {}

/** A handler is declared wrongly: no or two owners of a name, no `invoke`, not decorated. */
export class FutureCallHandlerError extends FutureCallError {}

/** `data` holds something that JSON, or PostgreSQL's `jsonb`, cannot carry. */
export class FutureCallDataError extends FutureCallError {}

/** A delay or a time is not one, or lies outside what can be stored. */
export class FutureCallTimeError extends FutureCallError {}

/** The tables are missing, foreign, or of a version that this code cannot work with. */
export class FutureCallSchemaError extends FutureCallError {}

/** The instance's dedicated connection cannot be had, or is not what it must be. */
export class FutureCallSessionError extends FutureCallError {}

/** A call was scheduled for a name that this process has no handler for. */
export class UnknownFutureCallError extends FutureCallError {}
