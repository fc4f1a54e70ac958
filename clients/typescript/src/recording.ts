import { AsyncLocalStorage } from "node:async_hooks";
import { randomBytes } from "node:crypto";

import { fromBinary } from "@bufbuild/protobuf";
import { ProtobufTraceSerializer } from "@opentelemetry/otlp-transformer";
import type { ReadableSpan } from "@opentelemetry/sdk-trace-node";

import { AddSpansRequestSchema } from "./gen/lightning_store/v1/span_service_pb.js";
import type { AttemptKey } from "./held-attempts.js";
import { MOST_BYTES, type SpanSender } from "./span-sender.js";

const MOST_IN_BATCH = 256;
const LINGER_MS = 1_000;
const MOST_UNSENT = 100_000;
const NO_BYTES = new Uint8Array();

/**
 * The spans of one attempt, on their way to the store.
 *
 * They leave in the background, in batches of up to 256 spans and about 4 MB, at the latest a second after they ended.
 */
export class Recording {
  /** What all root spans of the attempt share, in hex. */
  readonly traceId = randomBytes(16).toString("hex");
  readonly #key: AttemptKey;
  readonly #sender: SpanSender;
  #pending: ReadableSpan[] = [];
  #sending: Promise<void> = Promise.resolve();
  #timer: NodeJS.Timeout | undefined;
  #error: unknown;
  #unsent = 0;
  #closed = false;

  constructor(key: AttemptKey, sender: SpanSender) {
    this.#key = key;
    this.#sender = sender;
  }

  /** Takes a span that has ended. One that comes after `close` is dropped: its attempt has been reported on. */
  add(span: ReadableSpan): void {
    if (this.#closed) {
      return;
    }
    if (this.#unsent >= MOST_UNSENT) {
      this.#error ??= new Error(`the store is more than ${MOST_UNSENT} spans behind the agent`);
      return;
    }
    this.#unsent += 1;
    this.#pending.push(span);
    if (this.#pending.length >= MOST_IN_BATCH) {
      this.#send();
    } else {
      this.#timer ??= setTimeout(() => this.#send(), LINGER_MS).unref();
    }
  }

  /**
   * Takes no more, and returns once the store has acknowledged every span.
   *
   * @throws StoreError - It did not take some of them, now or earlier.
   */
  async close(): Promise<void> {
    this.#closed = true;
    this.#send();
    await this.#sending;
    if (this.#error !== undefined) {
      throw this.#error;
    }
  }

  #send(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const batch = this.#pending;
    this.#pending = [];
    if (batch.length > 0) {
      // Outside of the attempt, so that an instrumented transport does not record how spans are sent as spans to send.
      this.#sending = recordingNothing(() => this.#sending.then(() => this.#add(batch))).catch((error: unknown) => {
        this.#error ??= error;
      });
    }
  }

  async #add(batch: readonly ReadableSpan[]): Promise<void> {
    const parts = runsOfScope(batch).map((run) => ProtobufTraceSerializer.serializeRequest(run) ?? NO_BYTES);
    const bytes = parts.reduce((sum, part) => sum + part.length, 0);
    if (batch.length > 1 && bytes > MOST_BYTES) {
      const half = batch.length >> 1;
      await this.#add(batch.slice(0, half));
      await this.#add(batch.slice(half));
      return;
    }
    // An export of OTLP has the bytes of this request; what is missing is where the spans belong.
    const resourceSpans = parts.flatMap((part) => fromBinary(AddSpansRequestSchema, part).resourceSpans);
    for (const span of resourceSpans.flatMap(({ scopeSpans }) => scopeSpans.flatMap(({ spans }) => spans))) {
      span.rolloutId = this.#key.rolloutId;
      span.attemptId = this.#key.attemptId;
    }
    await this.#sender.send(resourceSpans, bytes);
    this.#unsent -= batch.length;
  }
}

/** Splits spans where the scope changes: the serialiser would put all of one scope together, and lose their order. */
function runsOfScope(spans: readonly ReadableSpan[]): ReadableSpan[][] {
  const runs: ReadableSpan[][] = [];
  for (const span of spans) {
    const last = runs.at(-1);
    if (last?.[0]?.instrumentationScope === span.instrumentationScope) {
      last.push(span);
    } else {
      runs.push([span]);
    }
  }
  return runs;
}

const storage = new AsyncLocalStorage<Recording>();

/** Calls a function whose spans, and those of all that it starts, belong to a recording. */
export function recordingTo<T>(recording: Recording, call: () => T): T {
  return storage.run(recording, call);
}

/** Calls a function that belongs to no attempt, whoever calls. */
export function recordingNothing<T>(call: () => T): T {
  return storage.exit(call);
}

/** Returns the recording of the attempt that is running here, if any. */
export function currentRecording(): Recording | undefined {
  return storage.getStore();
}
