import type { Tracer } from "@opentelemetry/api";

import type { Attempt } from "./gen/lightning_store/v1/attempt_pb.js";
import type { Rollout } from "./gen/lightning_store/v1/rollout_pb.js";
import type { Json } from "./payload.js";
import type { NamedResources } from "./resources.js";

/** What an agent is given. */
export interface Task<Input = Json> {
  /** What to work on. */
  readonly input: Input;
  /** What the algorithm published for this rollout. */
  readonly resources: NamedResources;
  /** The rollout, as in the contract. */
  readonly rollout: Rollout;
  /** The attempt, as in the contract. */
  readonly attempt: Attempt;
  /** Aborted when the agent is to stop: the rollout was cancelled or given to another runner, or this one leaves. */
  readonly signal: AbortSignal;
  /** Makes spans of this attempt, as does any tracer of OpenTelemetry's global provider. */
  readonly tracer: Tracer;
}

/**
 * What an agent returns: a number is the reward, a boolean a reward of 1 or 0, nothing means that what it emitted says
 * all. Anything else is kept with the spans as an object.
 */
export type AgentResult = number | boolean | string | object | null | undefined | void;

/** An agent. What it throws fails its attempt and not the runner. */
export type Agent<Input = Json> = (task: Task<Input>) => AgentResult | Promise<AgentResult>;
