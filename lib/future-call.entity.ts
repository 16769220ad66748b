import { Column, Entity, Index, PrimaryColumn, PrimaryGeneratedColumn } from 'typeorm';
import type { FutureCallErrorRecord, FutureCallOutcome } from './future-call.types.js';

/**
 * The schema's version, kept as the comment of `future_call`: the one place that a migration, TypeORM's
 * `synchronize` and a restored dump all carry along. Code of an older version works on tables that are "readable
 * since" its own version.
 */
export const SCHEMA_VERSION = 1;
export const SCHEMA_COMMENT = `nestjs-future-call: schema 1, readable since 1`;

/** A call that is to come. Its place is its state: in this table it is pending. */
@Entity({ name: 'future_call', comment: SCHEMA_COMMENT })
@Index(['name', 'dueAt', 'id'])
@Index(['identifier'], { where: 'identifier IS NOT NULL' })
export class FutureCallEntity {
  @PrimaryGeneratedColumn('identity', { type: 'bigint', generatedIdentity: 'BY DEFAULT' })
  id!: string;

  @Column({ type: 'text' })
  name!: string;

  @Column({ type: 'text', nullable: true })
  identifier!: string | null;

  @Column({ type: 'jsonb', nullable: true })
  data!: unknown;

  @Column({ name: 'due_at', type: 'timestamptz', precision: 3 })
  dueAt!: Date;

  /** Attempts so far. */
  @Column({ type: 'integer', default: 0 })
  attempt!: number;

  @Column({ type: 'jsonb', nullable: true })
  errors!: FutureCallErrorRecord[] | null;

  @Column({ name: 'created_at', type: 'timestamptz', precision: 3, default: () => 'now()' })
  createdAt!: Date;
}

/** A call that an instance runs. As many rows as calls run: small for ever. */
@Entity({ name: 'future_call_running' })
@Index(['instanceId'])
export class FutureCallRunningEntity {
  @PrimaryColumn({ type: 'bigint' })
  id!: string;

  @Column({ type: 'text' })
  name!: string;

  @Column({ type: 'text', nullable: true })
  identifier!: string | null;

  @Column({ type: 'jsonb', nullable: true })
  data!: unknown;

  @Column({ name: 'due_at', type: 'timestamptz', precision: 3 })
  dueAt!: Date;

  /** Which attempt this is, counted from 1. */
  @Column({ type: 'integer' })
  attempt!: number;

  @Column({ type: 'jsonb', nullable: true })
  errors!: FutureCallErrorRecord[] | null;

  @Column({ name: 'created_at', type: 'timestamptz', precision: 3 })
  createdAt!: Date;

  @Column({ name: 'instance_id', type: 'integer' })
  instanceId!: number;

  /** The instance's running number of the claim: with `id` and `instance_id` the claim token. */
  @Column({ type: 'integer' })
  claim!: number;

  @Column({ name: 'claimed_at', type: 'timestamptz', precision: 3, default: () => 'now()' })
  claimedAt!: Date;
}

/** A call that ended and is kept. */
@Entity({ name: 'future_call_outcome' })
@Index(['outcome', 'finishedAt'])
export class FutureCallOutcomeEntity {
  @PrimaryColumn({ name: 'call_id', type: 'bigint' })
  callId!: string;

  @Column({ type: 'text' })
  name!: string;

  @Column({ type: 'text', nullable: true })
  identifier!: string | null;

  @Column({ type: 'jsonb', nullable: true })
  data!: unknown;

  @Column({ name: 'due_at', type: 'timestamptz', precision: 3 })
  dueAt!: Date;

  /** Attempts made: 0 for a call that was cancelled before its first. */
  @Column({ type: 'integer' })
  attempt!: number;

  @Column({ type: 'text' })
  outcome!: FutureCallOutcome;

  @Column({ type: 'jsonb', nullable: true })
  errors!: FutureCallErrorRecord[] | null;

  @Column({ name: 'instance_id', type: 'integer', nullable: true })
  instanceId!: number | null;

  /** The claim of that instance: a completion that comes too late corrects only the outcome of its own claim. */
  @Column({ type: 'integer', nullable: true })
  claim!: number | null;

  @Column({ type: 'text', nullable: true })
  host!: string | null;

  @Column({ type: 'integer', nullable: true })
  pid!: number | null;

  @Column({ name: 'started_at', type: 'timestamptz', precision: 3, nullable: true })
  startedAt!: Date | null;

  @Column({ name: 'finished_at', type: 'timestamptz', precision: 3, default: () => 'now()' })
  finishedAt!: Date;

  @Column({ name: 'created_at', type: 'timestamptz', precision: 3 })
  createdAt!: Date;
}

/** A running process of the app that executes calls. */
@Entity({ name: 'future_call_instance' })
export class FutureCallInstanceEntity {
  /** Never reused. The key of the instance's liveness lock. */
  @PrimaryGeneratedColumn('identity', { type: 'integer', generatedIdentity: 'BY DEFAULT' })
  id!: number;

  @Column({ type: 'text' })
  host!: string;

  @Column({ type: 'integer' })
  pid!: number;

  @Column({ name: 'started_at', type: 'timestamptz', precision: 3, default: () => 'now()' })
  startedAt!: Date;

  /** Milliseconds. The largest one tells a scheduling process which calls are worth a notification. */
  @Column({ name: 'poll_interval', type: 'integer' })
  pollInterval!: number;

  /** Handler name → attempts allowed: a rescuer may not have the handler itself. */
  @Column({ type: 'jsonb' })
  handlers!: Record<string, number>;
}

/** Our entities, for an app that lists its entities itself instead of using `autoLoadEntities`. */
export const futureCallEntities = [
  FutureCallEntity,
  FutureCallRunningEntity,
  FutureCallOutcomeEntity,
  FutureCallInstanceEntity,
] as const;
