import { setTimeout as sleep } from "node:timers/promises";

import {
  create,
  isMessage,
  type DescMessage,
  type DescMethodStreaming,
  type DescMethodUnary,
  type MessageInitShape,
} from "@bufbuild/protobuf";
import { durationMs } from "@bufbuild/protobuf/wkt";
import {
  createClient,
  type Client,
  type StreamResponse,
  type Transport,
  type UnaryResponse,
} from "@connectrpc/connect";

import { parseAddress } from "./address.js";
import { storeError } from "./errors.js";
import { AttemptService } from "./gen/lightning_store/v1/attempt_service_pb.js";
import { ResourcesService } from "./gen/lightning_store/v1/resources_service_pb.js";
import { DequeueRolloutsRequestSchema, RolloutService } from "./gen/lightning_store/v1/rollout_service_pb.js";
import { SpanService } from "./gen/lightning_store/v1/span_service_pb.js";
import { StoreService } from "./gen/lightning_store/v1/store_service_pb.js";
import { WorkerService } from "./gen/lightning_store/v1/worker_service_pb.js";
import { Budgets, DEFAULT_RETRIES, isRepeatable, type RetryPolicy } from "./retries.js";
import { GrpcTransport, type HeadersInit, type TlsFiles } from "./transport.js";

/** Where a store is, and who asks. */
export interface StoreOptions {
  /** `host:port`, or a URL with the scheme `grpc` or `http`, or `grpcs` or `https` for TLS. */
  readonly address: string;
  /** Token of a store that asks for one. */
  readonly token?: string | undefined;
  /** The experiment; `default` unless given. */
  readonly experiment?: string | undefined;
  /** For TLS where the system does not know the authority, or the server wants to see a certificate. */
  readonly tls?: TlsFiles | undefined;
  /** Milliseconds to wait for each answer, on top of what a call itself asks to wait; 30,000 unless given. */
  readonly timeoutMs?: number | undefined;
  /** How long calls are sent again that can be. */
  readonly retries?: Partial<RetryPolicy> | undefined;
}

/**
 * The services of a store.
 *
 * A call that fails because the server cannot be reached, is overloaded or answers late is sent again where that cannot
 * do harm. What fails for good throws a StoreError; a call whose `signal` is aborted throws the signal's reason.
 */
export interface Store {
  readonly rollouts: Client<typeof RolloutService>;
  readonly attempts: Client<typeof AttemptService>;
  readonly spans: Client<typeof SpanService>;
  readonly resources: Client<typeof ResourcesService>;
  readonly workers: Client<typeof WorkerService>;
  readonly store: Client<typeof StoreService>;
  /** Where the server is. */
  readonly url: URL;
  /** Closes the connection; make no calls after it. */
  close(): void;
}

const LONGEST_POLL_MS = 60_000;

/** Returns the services of a store. Nothing is connected before the first call. */
export function connect(options: StoreOptions): Store {
  const url = parseAddress(options.address);
  const channel = new GrpcTransport(url, options.tls ?? {});
  const transport = new PatientTransport(
    channel,
    headersOf(options),
    options.timeoutMs ?? 30_000,
    { ...DEFAULT_RETRIES, ...options.retries },
    url.host,
  );
  return {
    rollouts: createClient(RolloutService, transport),
    attempts: createClient(AttemptService, transport),
    spans: createClient(SpanService, transport),
    resources: createClient(ResourcesService, transport),
    workers: createClient(WorkerService, transport),
    store: createClient(StoreService, transport),
    url,
    close: () => channel.close(),
  };
}

function headersOf({ token, experiment }: StoreOptions): [string, string][] {
  const headers: [string, string][] = [];
  if (token !== undefined) {
    headers.push(["authorization", `Bearer ${token}`]);
  }
  if (experiment !== undefined) {
    headers.push(["agl-experiment", experiment]);
  }
  return headers;
}

/** Sends calls again that can be, each try with a deadline of its own. */
class PatientTransport implements Transport {
  #wasConnected = false;

  constructor(
    private readonly inner: Transport,
    private readonly headers: readonly [string, string][],
    private readonly timeoutMs: number,
    private readonly retries: RetryPolicy,
    private readonly target: string,
  ) {}

  async unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    signal: AbortSignal | undefined,
    timeoutMs: number | undefined,
    header: HeadersInit,
    input: MessageInitShape<I>,
  ): Promise<UnaryResponse<I, O>> {
    const request = create(method.input, input);
    let timeout = timeoutMs ?? this.timeoutMs;
    if (isMessage(request, DequeueRolloutsRequestSchema) && request.wait !== undefined) {
      timeout += Math.min(Math.max(durationMs(request.wait), 0), LONGEST_POLL_MS);
    }
    const budgets = new Budgets(this.retries, this.#wasConnected);
    for (;;) {
      try {
        const answer = await this.inner.unary(method, signal, timeout, this.#with(header), request);
        this.#wasConnected = true;
        return answer;
      } catch (failure) {
        signal?.throwIfAborted();
        const error = storeError(failure, this.#where(method));
        const delay = isRepeatable(request) ? budgets.delayAfter(error) : undefined;
        if (delay === undefined) {
          throw error;
        }
        await sleep(delay, undefined, { signal }).catch(() => signal?.throwIfAborted());
      }
    }
  }

  async stream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodStreaming<I, O>,
    signal: AbortSignal | undefined,
    timeoutMs: number | undefined,
    header: HeadersInit,
    input: AsyncIterable<MessageInitShape<I>>,
  ): Promise<StreamResponse<I, O>> {
    const fail = (failure: unknown) => {
      signal?.throwIfAborted();
      throw storeError(failure, this.#where(method));
    };
    const response = await this.inner.stream(method, signal, timeoutMs, this.#with(header), input).catch(fail);
    const messages = response.message;
    async function* translated() {
      try {
        yield* messages;
      } catch (failure) {
        fail(failure);
      }
    }
    return { ...response, message: translated() };
  }

  #with(header: HeadersInit): Headers {
    const headers = new Headers(header);
    for (const [name, value] of this.headers) {
      headers.set(name, value);
    }
    return headers;
  }

  #where(method: { name: string }): string {
    return `${method.name} at ${this.target}`;
  }
}
