import { readFileSync } from "node:fs";

import {
  create,
  fromBinary,
  toBinary,
  type DescMessage,
  type DescMethod,
  type DescMethodStreaming,
  type DescMethodUnary,
  type MessageInitShape,
  type MessageShape,
} from "@bufbuild/protobuf";
import type { StreamResponse, Transport, UnaryResponse } from "@connectrpc/connect";
import { Client, credentials, Metadata, type CallOptions } from "@grpc/grpc-js";

/** The headers of a call, as clients of the contract give them. */
export type HeadersInit = Parameters<Transport["unary"]>[3];

/** Files in PEM: the authority that signed the server's certificate, and a client's own certificate. */
export interface TlsFiles {
  readonly ca?: string;
  readonly certificate?: string;
  readonly key?: string;
}

const CHANNEL = {
  "grpc.max_receive_message_length": -1,
  "grpc.max_send_message_length": -1,
  "grpc.keepalive_time_ms": 30_000,
  "grpc.keepalive_timeout_ms": 10_000,
  "grpc.keepalive_permit_without_calls": 1,
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 2_000,
  "grpc.enable_retries": 0, // which calls may be sent again is decided above
  "grpc.enable_http_proxy": 0, // http_proxy would divert even calls to this very machine
};

/** Calls over one gRPC channel of `@grpc/grpc-js`, for typed clients. What fails, fails as the ServiceError of that. */
export class GrpcTransport implements Transport {
  readonly #client: Client;

  constructor(url: URL, { ca, certificate, key }: TlsFiles) {
    const [root, own, secret] = [ca, certificate, key].map((path) => (path === undefined ? null : readFileSync(path)));
    const port = url.port || (url.protocol === "https:" ? "443" : "80");
    this.#client = new Client(
      `${url.hostname}:${port}`,
      url.protocol === "https:" ? credentials.createSsl(root, secret, own) : credentials.createInsecure(),
      CHANNEL,
    );
  }

  /** Lets go of the connection. */
  close(): void {
    this.#client.close();
  }

  async unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    signal: AbortSignal | undefined,
    timeoutMs: number | undefined,
    header: HeadersInit,
    input: MessageInitShape<I>,
  ): Promise<UnaryResponse<I, O>> {
    signal?.throwIfAborted();
    return new Promise((resolve, reject) => {
      const cancel = () => call.cancel();
      const call = this.#client.makeUnaryRequest(
        pathOf(method),
        writer(method.input),
        reader(method.output),
        create(method.input, input),
        metadataOf(header),
        optionsOf(timeoutMs),
        (error, message) => {
          signal?.removeEventListener("abort", cancel);
          if (error === null && message !== undefined) {
            resolve({ ...answerOf(method), stream: false, method, message });
          } else {
            reject(error ?? new Error("an answer without a message"));
          }
        },
      );
      signal?.addEventListener("abort", cancel);
    });
  }

  /** Opens a stream of answers to one request; the contract has no streams of requests. */
  async stream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodStreaming<I, O>,
    signal: AbortSignal | undefined,
    timeoutMs: number | undefined,
    header: HeadersInit,
    input: AsyncIterable<MessageInitShape<I>>,
  ): Promise<StreamResponse<I, O>> {
    const requests: MessageInitShape<I>[] = [];
    for await (const request of input) {
      requests.push(request);
    }
    signal?.throwIfAborted();
    const call = this.#client.makeServerStreamRequest(
      pathOf(method),
      writer(method.input),
      reader(method.output),
      create(method.input, requests[0]),
      metadataOf(header),
      optionsOf(timeoutMs),
    );
    const cancel = () => call.cancel();
    signal?.addEventListener("abort", cancel);
    async function* messages(): AsyncGenerator<MessageShape<O>> {
      try {
        yield* call as AsyncIterable<MessageShape<O>>;
      } finally {
        signal?.removeEventListener("abort", cancel);
        call.cancel(); // whoever stops listening early wants no more
      }
    }
    return { ...answerOf(method), stream: true, method, message: messages() };
  }
}

function pathOf(method: DescMethod): string {
  return `/${method.parent.typeName}/${method.name}`;
}

function writer<M extends DescMessage>(schema: M): (message: MessageShape<M>) => Buffer {
  return (message) => {
    const { buffer, byteOffset, byteLength } = toBinary(schema, message);
    return Buffer.from(buffer, byteOffset, byteLength);
  };
}

function reader<M extends DescMessage>(schema: M): (data: Buffer) => MessageShape<M> {
  return (data) => fromBinary(schema, data);
}

function metadataOf(header: HeadersInit): Metadata {
  const metadata = new Metadata();
  new Headers(header).forEach((value, name) => metadata.set(name, value));
  return metadata;
}

function optionsOf(timeoutMs: number | undefined): CallOptions {
  return timeoutMs === undefined ? {} : { deadline: Date.now() + timeoutMs };
}

function answerOf<S extends DescMethod>({ parent }: S) {
  return { service: parent, header: new Headers(), trailer: new Headers() };
}
