import assert from 'node:assert/strict';
import { Inject, Injectable, Scope } from '@nestjs/common';
import { ContextIdFactory, REQUEST } from '@nestjs/core';
import {
  FutureCall,
  FutureCallService,
  type FutureCallContext,
  type FutureCallRequest,
} from 'nestjs-future-call';
import { boot } from './boot.js';
import { next } from './next.js';

@Injectable({ scope: Scope.REQUEST })
@FutureCall('of the call')
class OfCall {
  constructor(@Inject(REQUEST) private readonly request: FutureCallRequest) {}

  invoke(data: string, call: FutureCallContext) {
    assert.deepEqual(this.request, { data, call });
  }
}

@Injectable({ scope: Scope.REQUEST, durable: true })
@FutureCall('of the tenant')
class OfTenant {
  constructor(@Inject(REQUEST) private readonly payload: { tenant: string }) {}

  invoke(data: string) {
    assert.deepEqual(this.payload, { tenant: data });
  }
}

/** What the handlers find in `REQUEST`: if it is something else, the call fails. */
export async function checkScopes(): Promise<void> {
  const app = await boot({ providers: [OfCall, OfTenant] });
  const tenant = ContextIdFactory.create();
  ContextIdFactory.apply({
    attach: (contextId, { data }: FutureCallRequest) => ({
      resolve: ({ isTreeDurable }) => (isTreeDurable ? tenant : contextId),
      payload: { tenant: data },
    }),
  });
  const service = app.get(FutureCallService);
  for (const handler of [OfCall, OfTenant]) {
    const completed = next(service, 'completed');
    const { id } = await service.callWithDelay(handler, 'ada', 0);
    assert.equal((await completed).id, id);
  }
  await app.close();
}
