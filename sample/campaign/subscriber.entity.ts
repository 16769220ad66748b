import { Column, Entity, PrimaryColumn } from 'typeorm';

@Entity('sample_subscriber')
export class Subscriber {
  @PrimaryColumn({ type: 'text' })
  email!: string;

  @Column({ name: 'signed_up_at', type: 'timestamptz', precision: 3 })
  signedUpAt!: Date;
}
