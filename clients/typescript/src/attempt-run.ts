import { setTimeout as sleep } from "node:timers/promises";

import { context, ROOT_CONTEXT } from "@opentelemetry/api";

import { emitObject, emitReward } from "./emitter.js";
import { AttemptFailureKind, AttemptStatus, type Attempt } from "./gen/lightning_store/v1/attempt_pb.js";
import type { Rollout } from "./gen/lightning_store/v1/rollout_pb.js";
import type { AttemptKey } from "./held-attempts.js";
import type { Logger } from "./logger.js";
import { fromPayload } from "./payload.js";
import { Recording, recordingTo } from "./recording.js";
import { MissingResourceError, type ResourcesCache } from "./resources.js";
import type { SpanSender } from "./span-sender.js";
import type { Store } from "./store.js";
import type { Agent, AgentResult } from "./task.js";
import { agentTracer } from "./tracing.js";

// Without this, an agent that kills its process before its first span would be handed out for ever: a lease that runs out
// on an attempt that was never begun costs none. Short rollouts are spared the call.
const BEGUN_AFTER_MS = 200;
const MESSAGE_CHARACTERS = 2_000;

class Stopped extends Error {}

/** What the attempts of a runner share. */
export interface RunnerParts {
  readonly store: Store;
  readonly sender: SpanSender;
  readonly resources: ResourcesCache;
  /** For what is not urgent, so that many attempts that last do not all say so at once. */
  readonly turns: Turns;
  /** What an agent that is stopped gets to clean up. */
  readonly stopGraceMs: number;
  readonly logger: Logger;
}

/** Calls one thing after the other. */
export class Turns {
  #last: Promise<void> = Promise.resolve();

  /** Calls something, which must not fail, when all that came before has ended. */
  take(call: () => Promise<void> | undefined): void {
    this.#last = this.#last.then(call);
  }
}

/**
 * Runs an agent on one claimed rollout and reports the end, whatever it is.
 *
 * The attempt is reported as succeeded only if the agent returned, was not told to stop, and all its spans have been
 * acknowledged by the store.
 */
export class AttemptRun {
  readonly key: AttemptKey;
  readonly #rollout: Rollout;
  readonly #attempt: Attempt;
  readonly #agent: Agent<never>;
  readonly #runner: RunnerParts;
  readonly #recording: Recording;
  readonly #stop = new AbortController();
  #beginning: Promise<void> | undefined;
  #failure: { kind: AttemptFailureKind; message: string } | undefined;

  constructor(rollout: Rollout, attempt: Attempt, agent: Agent<never>, runner: RunnerParts) {
    this.key = { rolloutId: attempt.rolloutId, attemptId: attempt.attemptId };
    this.#rollout = rollout;
    this.#attempt = attempt;
    this.#agent = agent;
    this.#runner = runner;
    this.#recording = new Recording(this.key, runner.sender);
  }

  /**
   * Has the agent stopped and the attempt reported as cancelled. May be called repeatedly. An agent that has not ended
   * after `stopGraceMs` is left to itself.
   */
  stop(reason: string): void {
    this.#stop.abort(new Stopped(reason));
  }

  /** Runs and reports; never throws. */
  async run(): Promise<void> {
    let working = true;
    const timer = setTimeout(() => {
      this.#runner.turns.take(() => (working ? (this.#beginning = this.#reportBegun()) : undefined));
    }, BEGUN_AFTER_MS);
    await this.#execute();
    clearTimeout(timer);
    working = false; // from here on the spans, or the report of the end, say that it has begun
    if (!(await this.#ends(this.#finish()))) {
      this.#runner.logger.error(`the end of ${this.#name} could not be reported in time`);
    }
  }

  async #finish(): Promise<void> {
    await this.#flush();
    await this.#beginning;
    await this.#report();
  }

  async #execute(): Promise<void> {
    // What goes wrong around the agent is not the agent's fault.
    let blame = AttemptFailureKind.INFRASTRUCTURE;
    try {
      const task = {
        input: fromPayload(this.#rollout.input, "input") as never,
        resources: await this.#runner.resources.resourcesFor(
          this.#rollout,
          this.#attempt,
          this.#runner.store,
          this.#stop.signal,
        ),
        rollout: this.#rollout,
        attempt: this.#attempt,
        signal: this.#stop.signal,
        tracer: agentTracer(),
      };
      blame = AttemptFailureKind.AGENT_ERROR;
      // A context of its own, so that one attempt's spans never have those of another as parents.
      await recordingTo(this.#recording, () =>
        context.with(ROOT_CONTEXT, async () => emitResult(await this.#unlessStopped(async () => this.#agent(task)))),
      );
    } catch (error) {
      this.#fail(error, blame);
    }
  }

  async #flush(): Promise<void> {
    try {
      await this.#recording.close();
    } catch (error) {
      this.#fail(error, AttemptFailureKind.INFRASTRUCTURE, "its spans could not be stored: ");
    }
  }

  async #unlessStopped(call: () => Promise<AgentResult>): Promise<AgentResult> {
    const { signal } = this.#stop;
    signal.throwIfAborted();
    const working = call();
    const ended = await this.#ends(working);
    if (!signal.aborted) {
      return working;
    }
    if (!ended) {
      this.#runner.logger.warn(`the agent goes on with ${this.#name} and is left to itself`);
    }
    throw signal.reason;
  }

  /** Waits until something has ended, for `stopGraceMs` at most once the attempt is to stop; tells whether it has. */
  async #ends(work: Promise<unknown>): Promise<boolean> {
    const { signal } = this.#stop;
    const ended = work.then(
      () => true,
      () => true,
    );
    const told = new Promise<void>((resolve) => {
      signal.addEventListener("abort", () => resolve(), { once: true });
      if (signal.aborted) {
        resolve();
      }
    });
    return Promise.race([ended, told.then(() => sleep(this.#runner.stopGraceMs, false, { ref: false }))]);
  }

  async #reportBegun(): Promise<void> {
    try {
      await this.#runner.store.attempts.updateAttempt({ ...this.key, status: AttemptStatus.RUNNING });
    } catch (error) {
      // Its spans, or its end, will say the same.
      this.#runner.logger.warn(`${this.#name} could not be reported as running: ${String(error)}`);
    }
  }

  async #report(): Promise<void> {
    const outcome = this.#failure
      ? { status: AttemptStatus.FAILED, failure: this.#failure }
      : { status: AttemptStatus.SUCCEEDED };
    try {
      await this.#runner.store.attempts.updateAttempt({ ...this.key, ...outcome });
    } catch (error) {
      // The lease will run out, and the store decides what follows.
      this.#runner.logger.error(`the end of ${this.#name} could not be reported: ${String(error)}`);
    }
  }

  #fail(error: unknown, blame: AttemptFailureKind, prefix = ""): void {
    if (this.#failure !== undefined) {
      return; // the first reason is the reason; what follows from it is not
    }
    const [kind, message] =
      error instanceof Stopped
        ? [AttemptFailureKind.CANCELLED, error.message]
        : [
            error instanceof MissingResourceError ? AttemptFailureKind.MISSING_RESOURCES : blame,
            `${prefix}${describe(error)}`,
          ];
    this.#failure = { kind, message: message.slice(0, MESSAGE_CHARACTERS).toWellFormed() };
    this.#runner.logger.warn(`${this.#name} failed (${AttemptFailureKind[kind]}): ${message}`);
  }

  get #name(): string {
    return `rollout ${this.key.rolloutId}, attempt ${this.key.attemptId}`;
  }
}

function emitResult(result: AgentResult): void {
  if (typeof result === "number" || typeof result === "boolean") {
    emitReward(Number(result));
  } else if (result !== undefined && result !== null) {
    emitObject(result);
  }
}

function describe(error: unknown): string {
  return error instanceof Error ? `${error.name}: ${error.message}` : `the agent threw ${String(error)}`;
}
