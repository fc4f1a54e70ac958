import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { status as Code } from "@grpc/grpc-js";

import { isMissingExperiment, StoreError } from "./errors.js";
import type { Claim, DequeueRolloutsResponse } from "./gen/lightning_store/v1/rollout_service_pb.js";
import type { Logger } from "./logger.js";
import type { ResourcesCache } from "./resources.js";
import { aboutAsLong } from "./retries.js";
import type { Store } from "./store.js";

/** How long a runner goes on asking a store that does not answer. */
export const STORE_PATIENCE_MS = 300_000;

const SHORTEST_PAUSE_MS = 1_000;
const LONGEST_PAUSE_MS = 15_000;
const TRANSIENT = new Set([
  Code.UNAVAILABLE,
  Code.DEADLINE_EXCEEDED,
  Code.RESOURCE_EXHAUSTED,
  Code.ABORTED,
  Code.INTERNAL,
]);

/** What `take` gives. */
export interface Taken {
  readonly claims: readonly Claim[];
  /** True when the store wants the worker to leave. */
  readonly draining: boolean;
}

/**
 * Claims rollouts for one worker, by long poll and under a lease.
 *
 * A store that cannot be reached is asked again for up to `STORE_PATIENCE_MS`, an experiment that does not exist for as
 * long as it takes: the algorithm may start after its runners.
 */
export class Claims {
  #toldOfExperiment = false;

  /**
   * @param pollMs - How long one request waits at the store.
   * @param leaseMs - How long a claim is leased for.
   * @param resources - Takes the resources that come with claims.
   */
  constructor(
    private readonly store: Store,
    private readonly workerId: string,
    private readonly pollMs: number,
    private readonly leaseMs: number,
    private readonly resources: ResourcesCache,
    private readonly logger: Logger,
  ) {}

  /**
   * Waits for work, for up to `pollMs` once the store can be reached.
   *
   * @param limit - The most rollouts to claim.
   * @param signal - Ends the wait; what had been claimed by then is handed back.
   * @throws StoreError - The store refused, or could not be reached for `STORE_PATIENCE_MS`.
   */
  async take(limit: number, signal: AbortSignal): Promise<Taken> {
    const asked = performance.now();
    const { claims, resources, draining } = await this.#claimPatiently(limit, signal);
    if (signal.aborted) {
      await this.#handBack(claims);
      return { claims: [], draining };
    }
    this.resources.take(resources);
    if (claims.length === 0 && !draining) {
      // A store that does not wait must not be asked without pause.
      const pause = Math.min(500, Math.max(0, asked + this.pollMs - performance.now()));
      await sleep(pause, undefined, { signal }).catch(() => undefined);
    }
    return { claims, draining };
  }

  async #claimPatiently(
    limit: number,
    signal: AbortSignal,
  ): Promise<Pick<DequeueRolloutsResponse, "claims" | "resources" | "draining">> {
    let deadline = performance.now() + STORE_PATIENCE_MS;
    let pause = SHORTEST_PAUSE_MS;
    while (!signal.aborted) {
      try {
        return await this.store.rollouts.dequeueRollouts(
          {
            limit,
            workerId: this.workerId,
            claimId: randomUUID(),
            wait: durationFromMs(this.pollMs),
            lease: durationFromMs(this.leaseMs),
            knownResources: this.resources.known(),
            withResources: true,
          },
          { signal },
        );
      } catch (error) {
        if (signal.aborted) {
          break;
        }
        if (isMissingExperiment(error)) {
          this.#tellOfExperiment(error);
          pause = SHORTEST_PAUSE_MS;
          deadline = performance.now() + STORE_PATIENCE_MS;
        } else if (!isTransient(error) || performance.now() + pause > deadline) {
          throw error;
        } else {
          this.logger.warn(`${this.workerId} cannot reach the store and tries again: ${String(error)}`);
        }
        await sleep(aboutAsLong(pause), undefined, { signal }).catch(() => undefined);
        pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
      }
    }
    return { claims: [], resources: [], draining: false };
  }

  async #handBack(claims: readonly Claim[]): Promise<void> {
    const attempts = claims.flatMap(({ attempt }) =>
      attempt ? [{ rolloutId: attempt.rolloutId, attemptId: attempt.attemptId }] : [],
    );
    if (attempts.length === 0) {
      return;
    }
    try {
      await this.store.attempts.releaseAttempts({ attempts }, { timeoutMs: 5_000 });
    } catch (error) {
      this.logger.warn(`${this.workerId} could not hand back what it had claimed: ${String(error)}`);
    }
  }

  #tellOfExperiment(error: unknown): void {
    if (!this.#toldOfExperiment) {
      this.#toldOfExperiment = true;
      this.logger.warn(`${this.workerId} waits for an algorithm to begin: ${String(error)}`);
    }
  }
}

function isTransient(error: unknown): boolean {
  return error instanceof StoreError && TRANSIENT.has(error.code);
}
