export { FutureCallModule } from './future-call.module.js';
export type {
  FutureCallModuleAsyncOptions,
  FutureCallModuleExtras,
} from './future-call.module-definition.js';
export type { FutureCallModuleOptions, FutureCallOptionsFactory } from './future-call.options.js';
export { FutureCallService } from './future-call.service.js';
export { FutureCall } from './future-call.decorator.js';
export type {
  CancelOptions,
  FutureCallContext,
  FutureCallData,
  FutureCallErrorRecord,
  FutureCallHandler,
  FutureCallHandlerClass,
  FutureCallHandlerOptions,
  FutureCallOutcome,
  JsonForm,
  ScheduledFutureCall,
  ScheduleOptions,
} from './future-call.types.js';
export type { Delay, DelayObject, Duration, DurationObject } from './common/duration.js';
export type { FutureCallRequest } from './discovery/future-call.explorer.js';
export {
  FutureCallDataError,
  FutureCallError,
  FutureCallHandlerError,
  FutureCallOptionsError,
  FutureCallSchemaError,
  FutureCallSessionError,
  FutureCallTimeError,
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
