import type { LoggerService } from '@nestjs/common';

/** A logger that keeps what it is told. */
export class LogLines implements LoggerService {
  readonly lines: string[] = [];
  readonly warnings: string[] = [];
  /** Of the errors. */
  readonly stacks: string[] = [];

  log(message: unknown): void {
    this.lines.push(String(message));
  }

  warn(message: unknown): void {
    this.warnings.push(String(message));
  }

  error(message: unknown, stack?: unknown): void {
    this.lines.push(String(message));
    this.stacks.push(String(stack));
  }
}
