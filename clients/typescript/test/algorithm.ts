import { randomUUID } from "node:crypto";

import type { MessageInitShape } from "@bufbuild/protobuf";

import { connect, Runner, toPayload, type Agent, type Logger, type RunnerOptions, type Store } from "../src/index.js";
import { RolloutStatus, SpansView, type Attempt, type NewRolloutSchema, type Rollout, type Span } from "../src/v1.js";

/** What an algorithm does, in an experiment of its own. */
export class Algorithm {
  readonly experiment = randomUUID();
  readonly store: Store;

  constructor(readonly address: string) {
    this.store = connect({ address, experiment: this.experiment });
  }

  /** Publishes a prompt, so that rollouts have resources. */
  async publish(template = "Hello {name}!"): Promise<void> {
    const prompt = { kind: { case: "promptTemplate" as const, value: { template, engine: "f-string" } } };
    await this.store.resources.addResources({
      resourcesId: randomUUID(),
      resources: [{ name: "prompt", resource: prompt }],
    });
  }

  /** Enqueues a rollout for each input and returns their ids. */
  async enqueue(inputs: readonly unknown[], more: MessageInitShape<typeof NewRolloutSchema> = {}): Promise<string[]> {
    const rollouts = inputs.map((input) => ({ rolloutId: randomUUID(), input: toPayload(input, "input"), ...more }));
    await this.store.rollouts.enqueueRollouts({ rollouts });
    return rollouts.map(({ rolloutId }) => rolloutId);
  }

  runner(options: Partial<RunnerOptions> = {}): Runner {
    const { address, experiment } = this;
    return new Runner({ address, experiment, logger: silent, pollMs: 1_000, handleSignals: false, ...options });
  }

  /** Publishes, enqueues, and has a runner work off the inputs; returns the finished rollouts in order. */
  async run<Input>(
    inputs: readonly unknown[],
    agent: Agent<Input>,
    options: Partial<RunnerOptions> = {},
  ): Promise<Rollout[]> {
    await this.publish();
    const ids = await this.enqueue(inputs);
    await this.runner({ maxRollouts: inputs.length, ...options }).run(agent);
    return this.finished(ids);
  }

  /** Waits until rollouts have finished, and returns them in the order of the ids. */
  async finished(rolloutIds: string[]): Promise<Rollout[]> {
    const found = new Map<string, Rollout>();
    for await (const { event } of this.store.rollouts.waitForRollouts({ rolloutIds })) {
      if (event.case === "finished") {
        found.set(event.value.rolloutId, event.value);
      }
    }
    return rolloutIds.map((id) => found.get(id) as Rollout);
  }

  async rollout(rolloutId: string): Promise<Rollout> {
    return (await this.store.rollouts.getRollout({ rolloutId })).rollout as Rollout;
  }

  async attempt(rolloutId: string): Promise<Attempt> {
    return (await this.store.attempts.getLatestAttempt({ rolloutId })).attempt as Attempt;
  }

  /** Looks again and again until a rollout has a status. */
  async until(rolloutId: string, ...statuses: RolloutStatus[]): Promise<Rollout> {
    for await (const { changes } of this.store.rollouts.watchRollouts({})) {
      for (const { change } of changes) {
        if (
          change.case === "rollout" &&
          change.value.rolloutId === rolloutId &&
          statuses.includes(change.value.status)
        ) {
          return change.value;
        }
      }
    }
    throw new Error("the stream of changes ended");
  }

  async spans(rolloutId: string): Promise<Span[]> {
    return (await this.spansOf([rolloutId])).get(rolloutId) ?? [];
  }

  /** Waits until rollouts have finished, and returns the spans of all their attempts. */
  async spansOf(rolloutIds: string[]): Promise<Map<string, Span[]>> {
    const found = new Map<string, Span[]>(rolloutIds.map((id) => [id, []]));
    const spansView = SpansView.ALL_ATTEMPTS;
    for await (const { event } of this.store.rollouts.waitForRollouts({ rolloutIds, spansView })) {
      if (event.case === "spanChunk") {
        const { rolloutId, resourceSpans } = event.value;
        const spans = resourceSpans.flatMap(({ scopeSpans }) => scopeSpans.flatMap((scoped) => scoped.spans));
        found.get(rolloutId)?.push(...spans);
      }
    }
    return found;
  }
}

/** The attributes of a span. */
export function attributes(span: Span | undefined): Record<string, unknown> {
  return Object.fromEntries(span?.attributes.map(({ key, value }) => [key, value?.value.value]) ?? []);
}

export const silent: Logger = { info() {}, warn() {}, error() {} };

/** A promise, and how to keep it. */
export function deferred<T = void>(): { promise: Promise<T>; resolve: (value: T) => void } {
  let resolve!: (value: T) => void;
  const promise = new Promise<T>((keep) => (resolve = keep));
  return { promise, resolve };
}

/** Resolves when a signal is aborted. */
export function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) {
      resolve();
    }
    signal.addEventListener("abort", () => resolve());
  });
}
