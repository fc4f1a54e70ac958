import type { Attributes } from "@opentelemetry/api";

import { toJson } from "./payload.js";
import { currentRecording } from "./recording.js";
import { agentTracer } from "./tracing.js";

/** Name of the dimension of a reward that is a plain number. */
export const PRIMARY = "primary";

/**
 * Puts a reward into the trace of the rollout that is running. The last one of an attempt is its final reward.
 *
 * @param reward - A number, or several numbers by name.
 * @param primary - Which of several names is the one to train on.
 * @throws TypeError - One of them is no finite number, or several come without a primary one.
 * @throws Error - No attempt is running here.
 */
export function emitReward(reward: number | Readonly<Record<string, number>>, primary?: string): void {
  const attributes: Attributes = {};
  dimensions(reward, primary).forEach(([name, value], index) => {
    if (!Number.isFinite(value)) {
      throw new TypeError(`the reward${name === PRIMARY ? "" : ` "${name}"`} is ${value}; it must be a finite number`);
    }
    attributes[`agentlightning.reward.${index}.name`] = name;
    attributes[`agentlightning.reward.${index}.value`] = value;
  });
  emit("agentlightning.annotation", attributes);
}

/**
 * Puts a text into the trace of the rollout that is running.
 *
 * @throws Error - No attempt is running here.
 */
export function emitMessage(text: string): void {
  emit("agentlightning.message", { "agentlightning.message.body": text });
}

/**
 * Puts anything that JSON can express into the trace of the rollout that is running.
 *
 * @throws TypeError - JSON cannot express it.
 * @throws Error - No attempt is running here.
 */
export function emitObject(object: unknown): void {
  emit("agentlightning.object", {
    "agentlightning.object.type": Array.isArray(object) ? "list" : typeof object === "string" ? "str" : "dict",
    ...(typeof object === "string"
      ? { "agentlightning.object.literal": object }
      : { "agentlightning.object.json": toJson(object, "the object") }),
  });
}

function dimensions(
  reward: number | Readonly<Record<string, number>>,
  primary: string | undefined,
): [string, number][] {
  if (typeof reward === "number") {
    return [[PRIMARY, reward]];
  }
  const names = Object.keys(reward);
  if (primary === undefined || reward[primary] === undefined) {
    throw new TypeError(`a reward with several values needs a primary one, one of: ${names.join(", ")}`);
  }
  return [[primary, reward[primary]], ...Object.entries(reward).filter(([name]) => name !== primary)];
}

function emit(name: string, attributes: Attributes): void {
  if (currentRecording() === undefined) {
    throw new Error("no attempt is running here: emit from the agent, or from what it awaits");
  }
  agentTracer().startSpan(name, { attributes }).end();
}
