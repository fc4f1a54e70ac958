import { fromBinary, type DescMessage, type MessageShape } from "@bufbuild/protobuf";
import { anyUnpack, durationMs } from "@bufbuild/protobuf/wkt";
import { status as Code, type Metadata, type ServiceError } from "@grpc/grpc-js";

import { ErrorInfoSchema, RetryInfoSchema, type ErrorInfo, type RetryInfo } from "./gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "./gen/google/rpc/status_pb.js";

/** What a call to the store failed with. */
export class StoreError extends Error {
  override name = "StoreError";
  /** The status code of gRPC. */
  readonly code: Code;
  /** The reason in capitals, as the contract names it, such as `ROLLOUT_NOT_FOUND`. */
  readonly reason: string;
  /** What the reason is about. */
  readonly metadata: Readonly<Record<string, string>>;
  /** When trying again may help, in milliseconds; undefined where it would not. */
  readonly retryAfterMs: number | undefined;

  constructor(
    message: string,
    code: Code,
    reason: string,
    details: { metadata?: Record<string, string>; retryAfterMs?: number | undefined; cause?: unknown } = {},
  ) {
    super(message, { cause: details.cause });
    this.code = code;
    this.reason = reason;
    this.metadata = details.metadata ?? {};
    this.retryAfterMs = details.retryAfterMs;
  }
}

/** Returns whether a call failed because nobody has written to its experiment yet. */
export function isMissingExperiment(error: unknown): boolean {
  return error instanceof StoreError && error.reason === "EXPERIMENT_NOT_FOUND";
}

// What the library says of a connection that broke, or was closed by the server; the store itself says why.
const BROKEN = new Set<Code | undefined>([Code.UNAVAILABLE, Code.CANCELLED]);

/**
 * Turns what the transport throws into a StoreError.
 *
 * @param error - What was thrown. A cancellation by the caller's own signal is the caller's to recognise first.
 * @param where - What was called where, for the message.
 */
export function storeError(error: unknown, where: string): StoreError {
  if (error instanceof StoreError) {
    return error;
  }
  const { code, details, metadata } = error as Partial<ServiceError>;
  const [info, retry] = detailsOf(metadata);
  if (info !== undefined && code !== undefined) {
    const retryAfterMs = retry?.retryDelay && durationMs(retry.retryDelay);
    return new StoreError(details ?? info.reason, code, info.reason, {
      metadata: info.metadata,
      retryAfterMs,
      cause: error,
    });
  }
  const message = `${where}: ${details ?? String(error)}`;
  if (BROKEN.has(code)) {
    const unreachable = `${where}: the store cannot be reached: ${details}`;
    return new StoreError(unreachable, Code.UNAVAILABLE, "SERVER_UNREACHABLE", { cause: error });
  }
  // Not the store's word but that of the transport, which gives no details.
  const reason = code === Code.RESOURCE_EXHAUSTED ? "MESSAGE_TOO_LARGE" : Code[code ?? Code.INTERNAL];
  return new StoreError(message, code ?? Code.INTERNAL, reason, { cause: error });
}

function detailsOf(metadata: Metadata | undefined): [ErrorInfo | undefined, RetryInfo | undefined] {
  const data = metadata?.get("grpc-status-details-bin")[0];
  const details = data instanceof Buffer ? fromBinary(StatusSchema, data).details : [];
  const find = <M extends DescMessage>(schema: M): MessageShape<M> | undefined =>
    details.map((detail) => anyUnpack(detail, schema)).find((found) => found !== undefined);
  return [find(ErrorInfoSchema), find(RetryInfoSchema)];
}
