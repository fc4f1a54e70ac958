import { readFileSync } from "node:fs";
import type { ClientHttp2Stream, Http2Session } from "node:http2";
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
  type ContextValues,
  type StreamResponse,
  type Transport,
  type UnaryResponse,
} from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";

import { parseAddress } from "./address.js";
import { storeError } from "./errors.js";
import { AttemptService } from "./gen/lightning_store/v1/attempt_service_pb.js";
import { ResourcesService } from "./gen/lightning_store/v1/resources_service_pb.js";
import { DequeueRolloutsRequestSchema, RolloutService } from "./gen/lightning_store/v1/rollout_service_pb.js";
import { SpanService } from "./gen/lightning_store/v1/span_service_pb.js";
import { StoreService } from "./gen/lightning_store/v1/store_service_pb.js";
import { WorkerService } from "./gen/lightning_store/v1/worker_service_pb.js";
import { Budgets, DEFAULT_RETRIES, isRepeatable, type RetryPolicy } from "./retries.js";

/** Where a store is, and who asks. */
export interface StoreOptions {
  /** `host:port`, or a URL with the scheme `grpc` or `http`, or `grpcs` or `https` for TLS. */
  readonly address: string;
  /** Token of a store that asks for one. */
  readonly token?: string | undefined;
  /** The experiment; `default` unless given. */
  readonly experiment?: string | undefined;
  /** Files in PEM of a TLS connection: the authority that signed the server's certificate, and a client's own. */
  readonly tls?: { readonly ca?: string; readonly certificate?: string; readonly key?: string } | undefined;
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
  /** Closes the connection once the calls that are under way have ended; a later one connects again. */
  close(): void;
}

type HeadersInit = Parameters<Transport["unary"]>[3];

const KEEPALIVE = { pingIntervalMs: 30_000, pingTimeoutMs: 10_000, pingIdleConnection: true };
const LONGEST_POLL_MS = 60_000;

/** Returns the services of a store. Nothing is connected before the first call. */
export function connect(options: StoreOptions): Store {
  const url = parseAddress(options.address);
  const { ca, certificate, key } = options.tls ?? {};
  const connection = new Connection(url, KEEPALIVE, {
    ...(ca && { ca: readFileSync(ca) }),
    ...(certificate && { cert: readFileSync(certificate) }),
    ...(key && { key: readFileSync(key) }),
  });
  const transport = new PatientTransport(
    createGrpcTransport({ baseUrl: url.origin, sessionManager: connection }),
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
    close: () => connection.close(),
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

/** The library's own way to end a connection is abrupt, and a server notes that as an error. */
class Connection extends Http2SessionManager {
  #session: Http2Session | undefined;

  override async request(...request: Parameters<Http2SessionManager["request"]>): Promise<ClientHttp2Stream> {
    const stream = await super.request(...request);
    this.#session = stream.session;
    return stream;
  }

  close(): void {
    this.#session?.close();
  }
}

/** Sends calls again that can be, each try with a deadline of its own, which an interceptor could not do. */
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
    contextValues?: ContextValues,
  ): Promise<UnaryResponse<I, O>> {
    const request = create(method.input, input);
    let timeout = timeoutMs ?? this.timeoutMs;
    if (isMessage(request, DequeueRolloutsRequestSchema) && request.wait !== undefined) {
      timeout += Math.min(Math.max(durationMs(request.wait), 0), LONGEST_POLL_MS);
    }
    const budgets = new Budgets(this.retries, this.#wasConnected);
    for (;;) {
      try {
        const answer = await this.inner.unary(method, signal, timeout, this.#with(header), request, contextValues);
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
    contextValues?: ContextValues,
  ): Promise<StreamResponse<I, O>> {
    const fail = (failure: unknown) => {
      signal?.throwIfAborted();
      throw storeError(failure, this.#where(method));
    };
    const response = await this.inner
      .stream(method, signal, timeoutMs, this.#with(header), input, contextValues)
      .catch(fail);
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
