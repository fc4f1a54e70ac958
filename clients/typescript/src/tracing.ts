import type { Context, Tracer } from "@opentelemetry/api";
import {
  AlwaysOnSampler,
  NodeTracerProvider,
  RandomIdGenerator,
  type IdGenerator,
  type ReadableSpan,
  type Span,
  type SpanProcessor,
} from "@opentelemetry/sdk-trace-node";

import { currentRecording, type Recording } from "./recording.js";

/**
 * Sends each span to the attempt in whose asynchronous context it started, whichever runner runs it. Spans outside of
 * attempts are left alone.
 *
 * An application that registers an OpenTelemetry provider of its own adds one of these to it:
 * `new NodeTracerProvider({spanProcessors: [new AttemptSpanProcessor(), ...]})`.
 */
export class AttemptSpanProcessor implements SpanProcessor {
  readonly #recordings = new WeakMap<object, Recording>();

  onStart(span: Span, _parent: Context): void {
    const recording = currentRecording();
    if (recording !== undefined) {
      this.#recordings.set(span, recording);
    }
  }

  onEnd(span: ReadableSpan): void {
    this.#recordings.get(span)?.add(span);
  }

  /** Does nothing: each attempt flushes its own spans. */
  async forceFlush(): Promise<void> {}

  /** Does nothing, as above. */
  async shutdown(): Promise<void> {}
}

const anyIds = new RandomIdGenerator();
const attemptIds: IdGenerator = {
  generateTraceId: () => currentRecording()?.traceId ?? anyIds.generateTraceId(),
  generateSpanId: anyIds.generateSpanId,
};
const NO_LIMIT = Infinity;
let provider: NodeTracerProvider | undefined;

/**
 * Returns the tracer of the agents of this process.
 *
 * Its provider samples everything and cuts nothing, whatever the environment says: spans are training data here. It
 * becomes OpenTelemetry's global one, which instrumented libraries use, unless the application has registered another.
 */
export function agentTracer(): Tracer {
  if (provider === undefined) {
    provider = new NodeTracerProvider({
      sampler: new AlwaysOnSampler(),
      idGenerator: attemptIds,
      spanLimits: {
        attributeCountLimit: NO_LIMIT,
        attributeValueLengthLimit: NO_LIMIT,
        eventCountLimit: NO_LIMIT,
        linkCountLimit: NO_LIMIT,
        attributePerEventCountLimit: NO_LIMIT,
        attributePerLinkCountLimit: NO_LIMIT,
      },
      spanProcessors: [new AttemptSpanProcessor()],
    });
    provider.register();
  }
  return provider.getTracer("agentlightning");
}
