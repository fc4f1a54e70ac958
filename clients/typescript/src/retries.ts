import { isMessage, type Message } from "@bufbuild/protobuf";
import { status as Code } from "@grpc/grpc-js";

import type { StoreError } from "./errors.js";
import { StartAttemptRequestSchema, UpdateAttemptRequestSchema } from "./gen/lightning_store/v1/attempt_service_pb.js";
import {
  AddResourcesRequestSchema,
  UpdateResourcesRequestSchema,
} from "./gen/lightning_store/v1/resources_service_pb.js";
import { RolloutStatus } from "./gen/lightning_store/v1/rollout_pb.js";
import {
  DeleteRolloutsRequestSchema,
  DequeueRolloutsRequestSchema,
  EnqueueRolloutsRequestSchema,
  StartRolloutRequestSchema,
  UpdateRolloutRequestSchema,
} from "./gen/lightning_store/v1/rollout_service_pb.js";
import { AddSpansRequestSchema } from "./gen/lightning_store/v1/span_service_pb.js";
import { DeleteExperimentRequestSchema } from "./gen/lightning_store/v1/store_service_pb.js";

/** How long a call is sent again, by kind of failure; each budget counts from the first failure of its kind. */
export interface RetryPolicy {
  /** For a server that has never answered this client: a wrong address should be told soon. */
  readonly connectMs: number;
  /** For a server that has answered before: it may be restarting. */
  readonly reconnectMs: number;
  /** For a server that is overloaded and says when to try again. */
  readonly overloadMs: number;
  /** How often a call is sent again whose answer did not come in time. */
  readonly lateAnswers: number;
}

export const DEFAULT_RETRIES: RetryPolicy = {
  connectMs: 5_000,
  reconnectMs: 60_000,
  overloadMs: 30_000,
  lateAnswers: 2,
};

const FIRST_DELAY_MS = 100;
const LONGEST_DELAY_MS = 3_000;
const LATEST = "latest";

/** The budgets of one call. */
export class Budgets {
  readonly #policy: RetryPolicy;
  readonly #wasConnected: boolean;
  readonly #firstFailure = new Map<Code, number>();
  #tries = 0;
  #late = 0;

  constructor(policy: RetryPolicy, wasConnected: boolean) {
    this.#policy = policy;
    this.#wasConnected = wasConnected;
  }

  /** Returns the milliseconds to wait before the next try; undefined when the call has failed for good. */
  delayAfter(error: StoreError): number | undefined {
    if (error.code === Code.DEADLINE_EXCEEDED) {
      this.#late += 1;
      return this.#late <= this.#policy.lateAnswers ? 0 : undefined;
    }
    const budget = this.#budgetFor(error);
    if (budget === undefined) {
      return undefined;
    }
    this.#tries += 1;
    const now = performance.now();
    const first = this.#firstFailure.get(error.code) ?? now;
    this.#firstFailure.set(error.code, first);
    const left = first + budget - now;
    if (left <= 0) {
      return undefined;
    }
    const delay = aboutAsLong(Math.min(FIRST_DELAY_MS * 2 ** (this.#tries - 1), LONGEST_DELAY_MS));
    return Math.min(Math.max(delay, error.retryAfterMs ?? 0), left);
  }

  #budgetFor(error: StoreError): number | undefined {
    if (error.code === Code.UNAVAILABLE) {
      return this.#wasConnected ? this.#policy.reconnectMs : this.#policy.connectMs;
    }
    return error.code === Code.RESOURCE_EXHAUSTED && error.retryAfterMs !== undefined
      ? this.#policy.overloadMs
      : undefined;
  }
}

/** Varies a pause, or many clients would come back at the same moment. */
export function aboutAsLong(milliseconds: number): number {
  return milliseconds * (0.8 + 0.4 * Math.random());
}

/**
 * Tells whether a request that may have been carried out can be sent again.
 *
 * It can where that neither does its work twice, nor does it to what was not meant, nor takes back what others have
 * published in between.
 */
export function isRepeatable(request: Message): boolean {
  if (isMessage(request, EnqueueRolloutsRequestSchema)) {
    return request.rollouts.every((rollout) => rollout.rolloutId !== "");
  }
  if (isMessage(request, StartRolloutRequestSchema)) {
    return (request.rollout?.rolloutId ?? "") !== "";
  }
  if (isMessage(request, DequeueRolloutsRequestSchema)) {
    return request.claimId !== "";
  }
  if (isMessage(request, UpdateRolloutRequestSchema)) {
    return request.status !== RolloutStatus.QUEUING && request.status !== RolloutStatus.REQUEUING;
  }
  if (isMessage(request, DeleteRolloutsRequestSchema)) {
    // Others may match by then; a deleted id cannot.
    return request.rolloutIdIn !== undefined && request.statusIn === undefined;
  }
  if (isMessage(request, StartAttemptRequestSchema)) {
    return request.attemptId !== "";
  }
  if (isMessage(request, UpdateAttemptRequestSchema)) {
    // The latest may be another attempt by then, to which a sign of life does no harm.
    const { status, workerId, metadata, failure } = request;
    return request.attemptId !== LATEST || [status, workerId, metadata, failure].every((field) => field === undefined);
  }
  if (isMessage(request, AddSpansRequestSchema)) {
    return request.resourceSpans.every((group) =>
      group.scopeSpans.every((scoped) => scoped.spans.every((span) => isId(span.traceId) && isId(span.spanId))),
    );
  }
  if (isMessage(request, AddResourcesRequestSchema)) {
    return request.resourcesId !== "";
  }
  if (isMessage(request, UpdateResourcesRequestSchema)) {
    return request.expectedVersion !== undefined;
  }
  // A new experiment may have taken the name of the deleted one.
  return !isMessage(request, DeleteExperimentRequestSchema);
}

function isId(bytes: Uint8Array): boolean {
  return bytes.some((byte) => byte !== 0);
}
