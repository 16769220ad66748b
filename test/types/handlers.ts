/** What a handler may look like. Compiled, never run: a line marked "ts-expect-error" must not compile. */
import { Injectable, Scope } from '@nestjs/common';
import {
  FutureCall,
  RetryError,
  type FutureCallContext,
  type FutureCallData,
  type FutureCallHandler,
  type JsonForm,
} from '../../lib/index.js';

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
/** Compiles if the two types are the same. */
const same = <A, B>(proof: Equal<A, B>) => proof;

export interface Reminder {
  email: string;
  count?: number;
  tags: readonly string[];
  nested: { list: [number, string][]; kind: 'a' | 'b' | null };
}

@FutureCall('reminder')
export class Remind implements FutureCallHandler<Reminder> {
  async invoke(data: Reminder, call: FutureCallContext) {
    same<typeof data.email, string>(true);
    same<typeof call.dueAt, Date>(true);
    same<typeof call.identifier, string | null>(true);
    same<typeof call.signal, AbortSignal>(true);
  }
}

// Without the interface, with other decorators, with options, with more methods.
@Injectable({ scope: Scope.REQUEST, durable: true })
@FutureCall('scoped', { concurrency: 2 })
export class Scoped {
  constructor(readonly remind: Remind) {}
  invoke(data: string) {
    return this.other(data);
  }
  private other(text: string) {
    return text.length;
  }
}

@FutureCall('no parameters')
export class NoParameters {
  invoke() {}
}

@FutureCall('optional')
export class Optional {
  invoke(_data?: Reminder) {}
}

@FutureCall('nullable')
export class Nullable {
  invoke(_data: Reminder | null) {}
}

@FutureCall('void')
export class Void implements FutureCallHandler<void> {
  invoke() {}
}

@FutureCall('void parameter')
export class VoidParameter implements FutureCallHandler<void> {
  invoke(_data: void, _call: FutureCallContext) {}
}

@FutureCall('unknown')
export class Unknown implements FutureCallHandler {
  invoke(data: unknown) {
    return data;
  }
}

@FutureCall('any')
export class Anything {
  // oxlint-disable-next-line typescript/no-explicit-any
  invoke(_data: any) {}
}

@FutureCall('primitives')
export class Primitive {
  invoke(_data: string | number | boolean | null) {}
}

@FutureCall('branded')
export class Branded {
  invoke(_data: string & { readonly brand: 'UserId' }) {}
}

@FutureCall('record')
export class Dictionary {
  invoke(_data: Record<string, { n: number }[]>) {}
}

type Json = string | number | boolean | null | Json[] | { [key: string]: Json };

@FutureCall('json')
export class AnyJson {
  invoke(_data: Json) {}
}

interface Tree {
  name: string;
  children: Tree[];
  pair?: [Tree, Tree];
}

@FutureCall('tree')
export class WithTree {
  invoke(_data: Tree) {}
}

interface TreeOfDates {
  at: Date;
  children: TreeOfDates[];
}

// @ts-expect-error A Date in a type that contains itself.
@FutureCall('tree of dates')
export class WithTreeOfDates {
  invoke(_data: TreeOfDates) {}
}

enum Color {
  Red,
  Green = 'green',
}

@FutureCall('enum')
export class Enum {
  invoke(_data: { color: Color }) {}
}

export abstract class Base<T> implements FutureCallHandler<T> {
  abstract invoke(data: T, call: FutureCallContext): Promise<void>;
}

@FutureCall('generic base')
export class Derived extends Base<Reminder> {
  async invoke(_data: Reminder) {}
}

@FutureCall('property')
export class Property {
  invoke = async (_data: Reminder) => {};
}

// What JSON does not carry.

// @ts-expect-error A Date arrives as a string.
@FutureCall('date')
export class WithDate {
  invoke(_data: Date) {}
}

// @ts-expect-error Deep inside, too.
@FutureCall('deep date')
export class WithDeepDate implements FutureCallHandler<{ list: { at?: Date }[] }> {
  invoke(_data: { list: { at?: Date }[] }) {}
}

// @ts-expect-error Also as one of several.
@FutureCall('union date')
export class WithUnion {
  invoke(_data: { at: Date | string }) {}
}

// @ts-expect-error
@FutureCall('map')
export class WithMap {
  invoke(_data: { map: Map<string, string> }) {}
}

// @ts-expect-error
@FutureCall('set')
export class WithSet {
  invoke(_data: Set<string>) {}
}

// @ts-expect-error
@FutureCall('bigint')
export class WithBigint {
  invoke(_data: { amount: bigint }) {}
}

// @ts-expect-error
@FutureCall('buffer')
export class WithBuffer {
  invoke(_data: { file: Buffer }) {}
}

// @ts-expect-error
@FutureCall('function')
export class WithFunction {
  invoke(_data: { callback: () => void }) {}
}

class Money {
  constructor(readonly cents: number) {}
  format() {
    return `${this.cents / 100}`;
  }
}

// @ts-expect-error An instance arrives without its methods.
@FutureCall('class')
export class WithInstance {
  invoke(_data: { price: Money }) {}
}

// Not a handler.

// @ts-expect-error There is no invoke.
@FutureCall('missing')
export class Missing {}

// @ts-expect-error
@FutureCall('not a method')
export class NotAMethod {
  invoke = 5;
}

// @ts-expect-error The context has no such name.
@FutureCall('wrong context')
export class WrongContext {
  invoke(_data: unknown, _call: { name: number }) {}
}

// @ts-expect-error
@FutureCall()
export class Nameless {
  invoke() {}
}

// @ts-expect-error
@FutureCall('option', { concurency: 2 })
export class WrongOption {
  invoke() {}
}

// @ts-expect-error
@FutureCall('option', { concurrency: '2' })
export class WrongValue {
  invoke() {}
}

export class Liar implements FutureCallHandler<Reminder> {
  // @ts-expect-error It says it takes one thing, and takes another.
  invoke(_data: { name: string }) {}
}

// The types that are derived.
same<FutureCallData<typeof Remind>, Reminder>(true);
same<FutureCallData<typeof NoParameters>, null | undefined>(true);
same<FutureCallData<typeof Derived>, Reminder>(true);
same<JsonForm<{ at: Date }>, { at: never }>(true);
same<JsonForm<Reminder>, Reminder>(true);
same<JsonForm<unknown>, unknown>(true);
same<JsonForm<Json>, Json>(true);

// A backoff function answers at once.

// @ts-expect-error It is not awaited.
@FutureCall('async backoff', { attempts: 2, backoff: async (attempt) => attempt * 1_000 })
export class AsyncBackoff {
  invoke() {}
}

export const retries = [
  new RetryError({ delay: '10m' }),
  new RetryError({ at: new Date(0) }),
  // @ts-expect-error One of them only.
  new RetryError({ delay: '10m', at: new Date(0) }),
  // @ts-expect-error A month is no length of time.
  new RetryError({ delay: { months: 1 } }),
];
