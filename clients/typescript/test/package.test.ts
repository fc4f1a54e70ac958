import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const CONTRACT = fileURLToPath(new URL("../../../../proto/lightning_store/v1/", import.meta.url));

test("the package exports what its users are promised, and nothing else", async () => {
  assert.deepEqual(Object.keys(await import("agentlightning-grpc")).sort(), [
    "AttemptSpanProcessor",
    "MissingResourceError",
    "NamedResources",
    "PayloadError",
    "Runner",
    "StoreError",
    "connect",
    "emitMessage",
    "emitObject",
    "emitReward",
    "fromPayload",
    "toPayload",
  ]);
});

test("agentlightning-grpc/v1 holds every file of the contract", async () => {
  const names = Object.keys(await import("agentlightning-grpc/v1"));
  const files = readdirSync(CONTRACT).map((file) => `file_lightning_store_v1_${file.replace(".proto", "")}`);
  assert.ok(files.length > 10);
  assert.deepEqual(
    files.filter((file) => !names.includes(file)),
    [],
  );
});
