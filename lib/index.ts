export { FutureCallModule } from './future-call.module.js';
export type {
  FutureCallModuleAsyncOptions,
  FutureCallModuleExtras,
} from './module/future-call.module-definition.js';
export type { FutureCallModuleOptions, FutureCallOptionsFactory } from './module/future-call.options.js';
export { FutureCallService } from './scheduling/future-call.service.js';
export { FutureCallControl } from './control/future-call.control.js';
export type { RunDueOptions, RunDueResult } from './contract/future-call.control-types.js';
export { FutureCall } from './handlers/future-call.decorator.js';
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
} from './contract/future-call.types.js';
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
} from './contract/future-call.events.js';
export type { FutureCallRequest } from './handlers/future-call.explorer.js';
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
} from './contract/future-call.errors.js';
export {
  FutureCallEntity,
  futureCallEntities,
  FutureCallInstanceEntity,
  FutureCallOutcomeEntity,
  FutureCallRunningEntity,
} from './tables/future-call.entity.js';
export { futureCallMigrations } from './tables/migrations/future-call.migrations.js';
