export { emitMessage, emitObject, emitReward } from "./emitter.js";
export { StoreError } from "./errors.js";
export type { Logger } from "./logger.js";
export { fromPayload, PayloadError, toPayload, type Json } from "./payload.js";
export {
  MissingResourceError,
  NamedResources,
  type CustomResource,
  type Llm,
  type PromptTemplate,
  type Resource,
} from "./resources.js";
export type { RetryPolicy } from "./retries.js";
export { Runner, type RunnerOptions } from "./runner.js";
export { connect, type Store, type StoreOptions } from "./store.js";
export type { Agent, AgentResult, Task } from "./task.js";
export { AttemptSpanProcessor } from "./tracing.js";
