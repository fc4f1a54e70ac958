import { durationMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";

import { ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";

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

// What the transport says of a connection that broke; the store itself never answers with these two.
const BROKEN = new Set([Code.Canceled, Code.Aborted]);
const LIBRARY_REASONS: ReadonlyMap<Code, string> = new Map([
  [Code.DeadlineExceeded, "DEADLINE_EXCEEDED"],
  [Code.ResourceExhausted, "MESSAGE_TOO_LARGE"],
  [Code.Unauthenticated, "UNAUTHENTICATED"],
  [Code.PermissionDenied, "PERMISSION_DENIED"],
  [Code.Unimplemented, "UNIMPLEMENTED"],
]);

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
  const failure = ConnectError.from(error, Code.Internal);
  const info = failure.findDetails(ErrorInfoSchema)[0];
  const delay = failure.findDetails(RetryInfoSchema)[0]?.retryDelay;
  if (info !== undefined) {
    return new StoreError(failure.rawMessage, failure.code, info.reason, {
      metadata: info.metadata,
      retryAfterMs: delay === undefined ? undefined : durationMs(delay),
      cause: error,
    });
  }
  const reason = LIBRARY_REASONS.get(failure.code);
  if (reason !== undefined) {
    return new StoreError(`${where}: ${failure.rawMessage}`, failure.code, reason, { cause: error });
  }
  const unreachable = failure.code === Code.Unavailable || BROKEN.has(failure.code) || failure.cause instanceof Error;
  return unreachable
    ? new StoreError(`${where}: the store cannot be reached: ${failure.rawMessage}`, Code.Unavailable, "SERVER_UNREACHABLE", {
        cause: error,
      })
    : new StoreError(`${where}: ${failure.rawMessage}`, failure.code, "INTERNAL", { cause: error });
}
