import { Column, Entity, Index, PrimaryColumn, PrimaryGeneratedColumn } from 'typeorm';
import type { FutureCallErrorRecord, FutureCallOutcome } from '../contract/future-call.types.js';

// Every column states its name, so that a naming strategy that keeps given names changes none.

/** A call that is to come. Its place is its state: in this table it is pending. */
@Entity({ name: 'future_call', comment: 'nestjs-future-call: schema 1, readable since 1' })
@Index(['name', 'dueAt', 'id'])
@Index(['identifier'], { where: 'identifier IS NOT NULL' })
export class FutureCallEntity {
  @PrimaryGeneratedColumn('identity', { name: 'id', type: 'bigint', generatedIdentity: 'BY DEFAULT' })
  id!: string;

  @Column({ name: 'name', type: 'text' })
  name!: string;

  @Column({ name: 'identifier', type: 'text', nullable: true })
  identifier!: string | null;

  @Column({ name: 'data', type: 'jsonb', nullable: true })
  data!: unknown;

  @Column({ name: 'due_at', type: 'timestamptz', precision: 3 })
  dueAt!: Date;

  /** Attempts so far. */
  @Column({ name: 'attempt', type: 'integer', default: 0 })
  attempt!: number;

  @Column({ name: 'errors', type: 'jsonb', nullable: true })
  errors!: FutureCallErrorRecord[] | null;

  @Column({ name: 'created_at', type: 'timestamptz', precision: 3, default: () => 'now()' })
  createdAt!: Date;
}

/**
 * A call that an instance runs. As many rows as calls run, small for ever: whoever looks for those of one instance may
 * read them all, and every claim is spared a second index.
 */
@Entity({ name: 'future_call_running' })
export class FutureCallRunningEntity {
  @PrimaryColumn({ name: 'id', type: 'bigint' })
  id!: string;

  @Column({ name: 'name', type: 'text' })
  name!: string;

  @Column({ name: 'identifier', type: 'text', nullable: true })
  identifier!: string | null;

  @Column({ name: 'data', type: 'jsonb', nullable: true })
  data!: unknown;

  @Column({ name: 'due_at', type: 'timestamptz', precision: 3 })
  dueAt!: Date;

  /** Which attempt this is, counted from 1. */
  @Column({ name: 'attempt', type: 'integer' })
  attempt!: number;

  @Column({ name: 'errors', type: 'jsonb', nullable: true })
  errors!: FutureCallErrorRecord[] | null;

  @Column({ name: 'created_at', type: 'timestamptz', precision: 3 })
  createdAt!: Date;

  @Column({ name: 'instance_id', type: 'integer' })
  instanceId!: number;

  /** The instance's running number of the claim: with `id` and `instance_id` the claim token. */
  @Column({ name: 'claim', type: 'integer' })
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

  @Column({ name: 'name', type: 'text' })
  name!: string;

  @Column({ name: 'identifier', type: 'text', nullable: true })
  identifier!: string | null;

  @Column({ name: 'data', type: 'jsonb', nullable: true })
  data!: unknown;

  @Column({ name: 'due_at', type: 'timestamptz', precision: 3 })
  dueAt!: Date;

  /** Attempts made: 0 for a call that was cancelled before its first. */
  @Column({ name: 'attempt', type: 'integer' })
  attempt!: number;

  @Column({ name: 'outcome', type: 'text' })
  outcome!: FutureCallOutcome;

  @Column({ name: 'errors', type: 'jsonb', nullable: true })
  errors!: FutureCallErrorRecord[] | null;

  @Column({ name: 'instance_id', type: 'integer', nullable: true })
  instanceId!: number | null;

  /** The claim of that instance: a completion that comes too late corrects only the outcome of its own claim. */
  @Column({ name: 'claim', type: 'integer', nullable: true })
  claim!: number | null;

  @Column({ name: 'host', type: 'text', nullable: true })
  host!: string | null;

  @Column({ name: 'pid', type: 'integer', nullable: true })
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
  @PrimaryGeneratedColumn('identity', { name: 'id', type: 'integer', generatedIdentity: 'BY DEFAULT' })
  id!: number;

  @Column({ name: 'host', type: 'text' })
  host!: string;

  @Column({ name: 'pid', type: 'integer' })
  pid!: number;

  @Column({ name: 'started_at', type: 'timestamptz', precision: 3, default: () => 'now()' })
  startedAt!: Date;

  /** Milliseconds. The largest one tells a scheduling process which calls are worth a notification. */
  @Column({ name: 'poll_interval', type: 'integer' })
  pollInterval!: number;

  /** Handler name → attempts allowed: a rescuer may not have the handler itself. */
  @Column({ name: 'handlers', type: 'jsonb' })
  handlers!: Record<string, number>;
}

/** Our entities, for an app that lists its entities itself instead of using `autoLoadEntities`. */
export const futureCallEntities = [
  FutureCallEntity,
  FutureCallRunningEntity,
  FutureCallOutcomeEntity,
  FutureCallInstanceEntity,
] as const;
