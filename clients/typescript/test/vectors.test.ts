import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import {
  createRegistry,
  fromBinary,
  fromJson,
  toBinary,
  toJson,
  type DescFile,
  type DescMessage,
  type JsonValue,
} from "@bufbuild/protobuf";

import { file_google_rpc_error_details } from "../src/gen/google/rpc/error_details_pb.js";
import { fromPayload } from "../src/index.js";
import * as v1 from "../src/v1.js";

interface Vector {
  readonly name: string;
  readonly message: string;
  readonly json: JsonValue;
  readonly bytes: string;
  readonly unknown_fields?: boolean;
}

const path = fileURLToPath(new URL("../../../vectors.json", import.meta.url));
const { vectors } = JSON.parse(readFileSync(path, "utf-8")) as { vectors: Vector[] };
const files = Object.entries(v1).flatMap(([name, value]) => (name.startsWith("file_") ? [value as DescFile] : []));
const registry = createRegistry(...files, file_google_rpc_error_details);

for (const { name, message, json, bytes, unknown_fields } of vectors) {
  test(`${name}: ${message} is read and written as in other languages`, () => {
    const schema = registry.getMessage(message) as DescMessage;
    const read = fromBinary(schema, Buffer.from(bytes, "hex"));
    assert.deepEqual(toJson(schema, read), json);
    assert.equal(hex(toBinary(schema, read)), bytes);
    if (!unknown_fields) {
      assert.equal(hex(toBinary(schema, fromJson(schema, json))), bytes);
    }
  });
}

test("the payloads of the vectors are read without loss", () => {
  const [vector] = vectors.filter(
    ({ message, json }) => message === v1.RolloutSchema.typeName && json !== null && "input" in (json as object),
  );
  const { input } = fromBinary(v1.RolloutSchema, Buffer.from(vector?.bytes ?? "", "hex"));
  assert.deepEqual(fromPayload(input, "input"), {
    max: 2n ** 63n - 1n,
    min: -(2n ** 63n),
    above: 2n ** 64n,
    text: 'é漢字🚀 "\\\n\0',
    tenth: 0.1,
  });
});

function hex(data: Uint8Array): string {
  return Buffer.from(data).toString("hex");
}
