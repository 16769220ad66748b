import { Injectable } from '@nestjs/common';
import { ContextIdFactory, DiscoveryService, ModuleRef } from '@nestjs/core';
import { quoted } from '../common/text.js';
import { futureCallMark, FutureCallMetadata } from './future-call.decorator.js';
import { FutureCallHandlerError } from '../contract/future-call.errors.js';
import type { FutureCallContext, FutureCallHandlerOptions } from '../contract/future-call.types.js';

/** A handler of this process, ready to be invoked. */
export interface RegisteredHandler {
  readonly name: string;
  readonly className: string;
  readonly options: FutureCallHandlerOptions;
  /** Invokes the provider, which Nest makes for this one call if it is transient or request-scoped. */
  readonly invoke: (this: void, data: unknown, call: FutureCallContext) => unknown;
}

/**
 * What a request-scoped provider gets when it injects `REQUEST` in a handler, and what the app's `ContextIdStrategy` gets
 * in place of a request. A durable provider gets the strategy's payload, if it has one.
 */
export interface FutureCallRequest {
  readonly data: unknown;
  readonly call: FutureCallContext;
}

type Invocable = { invoke(data: unknown, call: FutureCallContext): unknown };
type Wrapper = ReturnType<DiscoveryService['getProviders']>[number];
type HandlerClass = { readonly name: string; readonly prototype: Partial<Invocable> };

/** Finds the providers marked `@FutureCall()` in all modules, and refuses those that cannot work. */
@Injectable()
export class FutureCallExplorer {
  constructor(private readonly discovery: DiscoveryService) {}

  /** Throws `FutureCallHandlerError`, naming the classes and the cure. */
  explore(): Map<string, RegisteredHandler> {
    const [controller] = this.discovery.getControllers({ metadataKey: FutureCallMetadata.KEY });
    if (controller !== undefined) {
      throw new FutureCallHandlerError(
        `${controller.name} is a controller, and @FutureCall() is for providers. Move the handler to a class of its own, in providers.`,
      );
    }
    const owners = new Map<string, HandlerClass>();
    const handlers = new Map<string, RegisteredHandler>();
    for (const wrapper of this.discovery.getProviders()) {
      const target = handlerClassOf(wrapper);
      if (target === undefined) continue;
      const mark = futureCallMark(target)!;
      const owner = owners.get(mark.name);
      // The same class in the providers of two modules is one handler.
      if (owner === target) continue;
      if (owner !== undefined) {
        throw new FutureCallHandlerError(
          `Two handlers are named ${quoted(mark.name)}: ${owner.name} and ${target.name}. Rename one of them in its @FutureCall().`,
        );
      }
      owners.set(mark.name, target);
      handlers.set(mark.name, { ...mark, className: target.name, invoke: this.invoker(wrapper, target) });
    }
    return handlers;
  }

  private invoker(wrapper: Wrapper, target: HandlerClass): RegisteredHandler['invoke'] {
    const isSingleton = wrapper.isDependencyTreeStatic() && !wrapper.isTransient;
    const sample = (isSingleton ? (wrapper.instance as Partial<Invocable> | null) : null) ?? target.prototype;
    if (typeof sample.invoke !== 'function') {
      throw new FutureCallHandlerError(
        `${target.name} is marked @FutureCall() but has no method invoke(data, call). Add one: "implements FutureCallHandler<…>" helps.`,
      );
    }
    // With names: they stand in the stack of whatever a handler throws, where V8 makes up one of its own for an arrow.
    if (isSingleton) {
      return function invokeHandler(data, call) {
        return (wrapper.instance as Invocable).invoke(data, call);
      };
    }
    const moduleRef = moduleRefOf(wrapper);
    return async function invokeScopedHandler(data, call) {
      const request: FutureCallRequest = { data, call };
      const contextId = ContextIdFactory.getByRequest(request);
      // Nest hands a durable provider the payload by itself only since 11.2.10 and 12.5.
      const payload = wrapper.isDependencyTreeDurable() ? contextId.payload : undefined;
      moduleRef.registerRequestByContextId(payload === undefined ? request : payload, contextId);
      const instance = await moduleRef.resolve<Invocable>(wrapper.token, contextId, { strict: true });
      return instance.invoke(data, call);
    };
  }
}

/** Of the provider's own module: another one may have another provider of that token. */
function moduleRefOf({ host }: Wrapper): ModuleRef {
  return host!.providers.get(ModuleRef)!.instance as ModuleRef;
}

/**
 * The marked class that a provider is an instance of, or else stands in for: `overrideProvider(Handler)` puts an
 * object without a mark in the place of a handler.
 */
function handlerClassOf(wrapper: Wrapper): HandlerClass | undefined {
  // For a value or a factory, `metatype` is null or the factory: the class is the instance's.
  const isClass = wrapper.metatype && !wrapper.inject;
  const own: unknown = isClass ? wrapper.metatype : (wrapper.instance as object | null)?.constructor;
  return [own, wrapper.token].find(isMarked);
}

function isMarked(candidate: unknown): candidate is HandlerClass {
  return typeof candidate === 'function' && futureCallMark(candidate) !== undefined;
}
