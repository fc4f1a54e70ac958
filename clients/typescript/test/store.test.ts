import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { connect as connectTcp, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { createServer as createTlsServer } from "node:tls";

import { create } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { status as Code } from "@grpc/grpc-js";

import { parseAddress } from "../src/address.js";
import { connect, StoreError, type Task } from "../src/index.js";
import { isRepeatable } from "../src/retries.js";
import {
  AddSpansRequestSchema,
  DequeueRolloutsRequestSchema,
  EnqueueRolloutsRequestSchema,
  RolloutStatus,
  UpdateAttemptRequestSchema,
  UpdateRolloutRequestSchema,
} from "../src/v1.js";
import { Algorithm, deferred } from "./algorithm.js";
import { Server } from "./server.js";

let server: Server;
before(async () => {
  server = await Server.start();
});
after(() => server.kill("SIGTERM"));

test("an error of the store names its reason, and what it is about", async () => {
  const algorithm = new Algorithm(server.address);
  await algorithm.publish();
  await assert.rejects(algorithm.rollout("ro-unknown"), (error) => {
    assert.ok(error instanceof StoreError);
    assert.equal(error.code, Code.NOT_FOUND);
    assert.equal(error.reason, "ROLLOUT_NOT_FOUND");
    assert.equal(error.metadata["rollout_id"], "ro-unknown");
    assert.match(error.message, /ro-unknown/);
    return true;
  });
});

test("an experiment that nobody has written to is told from an empty queue", async () => {
  const algorithm = new Algorithm(server.address);
  await assert.rejects(algorithm.store.rollouts.dequeueRollouts({ limit: 1 }), { reason: "EXPERIMENT_NOT_FOUND" });
});

test("a call ends with its deadline, or with its signal", async () => {
  const algorithm = new Algorithm(server.address);
  await algorithm.publish();
  const late = algorithm.store.rollouts.waitForRollouts(
    { rolloutIds: await algorithm.enqueue([0]) },
    { timeoutMs: 50 },
  );
  await assert.rejects(late[Symbol.asyncIterator]().next(), {
    reason: "DEADLINE_EXCEEDED",
    code: Code.DEADLINE_EXCEEDED,
  });
  await algorithm.store.rollouts.dequeueRollouts({ limit: 1 });
  const leaving = new AbortController();
  const held = algorithm.store.rollouts.dequeueRollouts(
    { limit: 1, claimId: "c", wait: durationFromMs(60_000) },
    leaving,
  );
  const reason = new Error("enough");
  leaving.abort(reason);
  await assert.rejects(held, reason);
});

test("a server that is not there is told soon, and where it was looked for", async () => {
  const store = connect({ address: "127.0.0.1:1", retries: { connectMs: 150 } });
  await assert.rejects(store.store.getServerInfo({}), {
    reason: "SERVER_UNREACHABLE",
    code: Code.UNAVAILABLE,
    message: /^GetServerInfo at 127\.0\.0\.1:1: the store cannot be reached: /,
  });
});

test("grpcs speaks TLS, with an authority and a certificate of its own where they are given", async () => {
  const folder = await mkdtemp(join(tmpdir(), "agentlightning-"));
  const [key, certificate] = [join(folder, "key.pem"), join(folder, "certificate.pem")];
  const subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"];
  const files = ["-keyout", key, "-out", certificate];
  execFileSync(
    "openssl",
    ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", ...subject, ...files],
    {
      stdio: "ignore",
    },
  );
  const cert = readFileSync(certificate);
  const encrypted = { key: readFileSync(key), cert, ca: cert, requestCert: true, ALPNProtocols: ["h2"] };
  const port = Number(server.address.split(":")[1]);
  const door = createTlsServer(encrypted, (socket) => socket.pipe(connectTcp(port, "127.0.0.1")).pipe(socket));
  await new Promise<void>((resolve) => door.listen(0, "127.0.0.1", resolve));
  const address = `grpcs://localhost:${(door.address() as AddressInfo).port}`;
  const store = connect({ address, tls: { ca: certificate, certificate, key } });
  const stranger = connect({ address, retries: { connectMs: 1 } });
  try {
    assert.equal((await store.store.getServerInfo({})).storage, "memory");
    await assert.rejects(stranger.store.getServerInfo({}), { reason: "SERVER_UNREACHABLE", message: /certificate/ });
  } finally {
    store.close();
    stranger.close();
    door.close();
    await rm(folder, { recursive: true });
  }
});

test("a runner outlives its server, and every rollout is finished once", async () => {
  const folder = await mkdtemp(join(tmpdir(), "agentlightning-"));
  const durable = await Server.start(`sqlite:///${join(folder, "store.db")}`);
  try {
    const algorithm = new Algorithm(durable.address);
    await algorithm.publish();
    const ids = await algorithm.enqueue(Array.from({ length: 20 }, (_, number) => number));
    const half = deferred();
    const back = deferred();
    let ended = 0;
    const running = algorithm.runner({ concurrency: 3, maxRollouts: 20 }).run(async ({ input }: Task<number>) => {
      ended += 1;
      if (ended === 10) {
        half.resolve();
      }
      if (ended >= 10) {
        await back.promise;
      }
      return input;
    });
    await half.promise;
    await durable.kill();
    back.resolve(); // the rest reports to a server that is not there
    await durable.start();
    assert.equal(await running, 20);
    const rollouts = await algorithm.finished(ids);
    assert.deepEqual(
      rollouts.map(({ status, latestAttempt }) => [status, latestAttempt?.sequenceId]),
      rollouts.map(() => [RolloutStatus.SUCCEEDED, 1]),
    );
    assert.equal(ended, 20);
  } finally {
    await durable.kill();
    await rm(folder, { recursive: true });
  }
});

test("a request is sent again only where that cannot do its work twice", () => {
  const repeatable = [
    create(DequeueRolloutsRequestSchema, { claimId: "c" }),
    create(EnqueueRolloutsRequestSchema, { rollouts: [{ rolloutId: "r" }] }),
    create(UpdateRolloutRequestSchema, { status: RolloutStatus.CANCELLED }),
    create(UpdateAttemptRequestSchema, { attemptId: "a", status: 4 }),
    create(UpdateAttemptRequestSchema, { attemptId: "latest" }),
    spans(Uint8Array.of(1), Uint8Array.of(1)),
  ];
  const once = [
    create(DequeueRolloutsRequestSchema),
    create(EnqueueRolloutsRequestSchema, { rollouts: [{ rolloutId: "r" }, {}] }),
    create(UpdateRolloutRequestSchema, { status: RolloutStatus.REQUEUING }),
    create(UpdateAttemptRequestSchema, { attemptId: "latest", status: 4 }),
    spans(Uint8Array.of(1), Uint8Array.of(0)),
  ];
  assert.deepEqual(
    repeatable.map(isRepeatable),
    repeatable.map(() => true),
  );
  assert.deepEqual(
    once.map(isRepeatable),
    once.map(() => false),
  );
});

test("addresses are taken as users write them, and a bad one says what to write", () => {
  const origins = ["host:1", "grpc://host:1", "http://host:1/", "grpcs://host:443", "https://[::1]:443", "[::1]:80"];
  assert.deepEqual(
    origins.map((address) => parseAddress(address).origin),
    ["http://host:1", "http://host:1", "http://host:1", "https://host", "https://[::1]", "http://[::1]"],
  );
  for (const address of ["host", "http://host", "ftp://host:1", "host:1/path", "host:x", "user@host:1", ""]) {
    assert.throws(() => parseAddress(address), /^TypeError: Cannot connect to .*write host:port/);
  }
});

function spans(traceId: Uint8Array, spanId: Uint8Array) {
  return create(AddSpansRequestSchema, { resourceSpans: [{ scopeSpans: [{ spans: [{ traceId, spanId }] }] }] });
}
