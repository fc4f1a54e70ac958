import { create } from "@bufbuild/protobuf";
import { parse, stringify } from "lossless-json";

import { PayloadSchema, type Payload } from "./gen/lightning_store/v1/payload_pb.js";

/** A value of JSON. Integers that a number cannot hold exactly are bigints. */
export type Json = null | boolean | number | bigint | string | Json[] | { [key: string]: Json };

/** The only content type that this client reads and writes. */
export const JSON_TYPE = "application/json";

/** A payload that is not JSON that can be read. */
export class PayloadError extends Error {
  override name = "PayloadError";
}

// What has no run of 16 digits holds no integer above 2^53, and the engine's own parser is ten times faster.
const MAY_HOLD_BIG_INTEGERS = /\d{16}/;
const INTEGER = /^-?\d+$/;
const decoder = new TextDecoder("utf-8", { fatal: true });
const encoder = new TextEncoder();

/**
 * Decodes a value of the user. Integers beyond `Number.MAX_SAFE_INTEGER` come as bigints, all other numbers as numbers.
 *
 * @param payload - The message; unset is null.
 * @param path - What the value is called where an error is reported.
 * @throws PayloadError - It is of another content type, or not JSON.
 */
export function fromPayload(payload: Payload | undefined, path: string): Json {
  if (payload === undefined) {
    return null;
  }
  if (payload.contentType !== JSON_TYPE) {
    throw new PayloadError(
      `${path} has the content type "${payload.contentType}"; this client reads ${JSON_TYPE} only`,
    );
  }
  try {
    return parseJson(decoder.decode(payload.data));
  } catch (error) {
    throw new PayloadError(`${path} is not JSON that can be read: ${String(error)}`, { cause: error });
  }
}

/**
 * Encodes a value of the user. What JSON leaves out (undefined members) is left out; dates and the like follow their
 * `toJSON`.
 *
 * @param value - The value; bigints become integers.
 * @param path - What the value is called where an error is reported, such as `input`.
 * @throws TypeError - Part of the value cannot be carried; the message names the part, such as `input.scores[3]`.
 */
export function toPayload(value: unknown, path: string): Payload {
  return create(PayloadSchema, { contentType: JSON_TYPE, data: encoder.encode(toJson(value, path)) });
}

/** Returns a value as JSON text; see `toPayload`. */
export function toJson(value: unknown, path: string): string {
  refuseWhatJsonLoses(value, path, new Set());
  const text = stringify(value);
  if (text === undefined) {
    throw new TypeError(`${path} is ${describe(value)}, which JSON cannot carry`);
  }
  return text;
}

function parseJson(text: string): Json {
  if (!MAY_HOLD_BIG_INTEGERS.test(text)) {
    return JSON.parse(text) as Json;
  }
  return parse(text, null, { parseNumber, onDuplicateKey: ({ newValue }) => newValue }) as Json;
}

function parseNumber(text: string): number | bigint {
  const number = Number(text);
  return INTEGER.test(text) && !Number.isSafeInteger(number) ? BigInt(text) : number;
}

function refuseWhatJsonLoses(value: unknown, path: string, above: Set<object>): void {
  if (typeof value === "number" && !Number.isFinite(value)) {
    throw new TypeError(`${path} is ${value}, which JSON cannot carry`);
  }
  if (typeof value === "string" && !value.isWellFormed()) {
    throw new TypeError(`${path} has half of a surrogate pair, which UTF-8 cannot carry`);
  }
  if (typeof value === "function" || typeof value === "symbol") {
    throw new TypeError(`${path} is ${describe(value)}, which JSON cannot carry`);
  }
  if (typeof value !== "object" || value === null || "toJSON" in value) {
    return;
  }
  if (above.has(value)) {
    throw new TypeError(`${path} contains itself, which JSON cannot carry`);
  }
  if (value instanceof Map || value instanceof Set || ArrayBuffer.isView(value)) {
    throw new TypeError(`${path} is ${describe(value)}, which JSON cannot carry; make it an array or an object`);
  }
  above.add(value);
  for (const [key, item] of Object.entries(value)) {
    refuseWhatJsonLoses(item, Array.isArray(value) ? `${path}[${key}]` : `${path}.${key}`, above);
  }
  above.delete(value);
}

function describe(value: unknown): string {
  return typeof value === "object" && value !== null ? `a ${value.constructor.name}` : typeof value;
}
