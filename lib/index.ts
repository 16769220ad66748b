export { FutureCallModule } from './future-call.module.js';
export type {
  FutureCallModuleAsyncOptions,
  FutureCallModuleExtras,
} from './future-call.module-definition.js';
export type { FutureCallModuleOptions, FutureCallOptionsFactory } from './future-call.options.js';
export { FutureCallService } from './future-call.service.js';
export { FutureCall } from './future-call.decorator.js';
export type {
  CallManyOptions,
  CancelOptions,
  FutureCallBackoff,
  FutureCallContext,
  FutureCallData,
  FutureCallErrorRecord,
  FutureCallHandler,
  FutureCallHandlerClass,
  FutureCallHandlerOptions,
  FutureCallOutcome,
  JsonForm,
  NewFutureCall,
  ScheduledFutureCall,
  ScheduleOptions,
} from './future-call.types.js';
export type { Delay, DelayObject, Duration, DurationObject } from './common/duration.js';
export type {
  FutureCallCancelled,
  FutureCallCompleted,
  FutureCallConnected,
  FutureCallDisconnected,
  FutureCallEvent,
  FutureCallFailed,
  FutureCallInterrupted,
  FutureCallReleased,
  FutureCallRescued,
  FutureCallScheduled,
  FutureCallStarted,
} from './future-call.events.js';
export type { FutureCallRequest } from './discovery/future-call.explorer.js';
export {
  DoNotRetryError,
  FutureCallDataError,
  FutureCallError,
  FutureCallHandlerError,
  FutureCallOptionsError,
  FutureCallSchemaError,
  FutureCallSessionError,
  FutureCallTimeError,
  RetryError,
  UnknownFutureCallError,
} from './future-call.errors.js';
export {
  FutureCallEntity,
  futureCallEntities,
  FutureCallInstanceEntity,
  FutureCallOutcomeEntity,
  FutureCallRunningEntity,
} from './future-call.entity.js';
export { futureCallMigrations } from './migrations/future-call.migrations.js';
