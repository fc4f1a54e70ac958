import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { context, trace } from "@opentelemetry/api";
import { NodeTracerProvider } from "@opentelemetry/sdk-trace-node";

import { AttemptSpanProcessor, emitMessage, emitObject, emitReward, toPayload, type Task } from "../src/index.js";
import { AttemptFailureKind, AttemptStatus, RolloutStatus, WorkerStatus } from "../src/v1.js";
import { aborted, Algorithm, attributes, deferred, silent } from "./algorithm.js";
import { Server } from "./server.js";

let server: Server;
before(async () => {
  server = await Server.start();
});
after(() => server.kill("SIGTERM"));

test("a number that the agent returns is the final reward, as the Python library reads it", async () => {
  const algorithm = new Algorithm(server.address);
  const [rollout] = await algorithm.run([2], ({ input }: Task<number>) => input / 4);
  assert.equal(rollout?.status, RolloutStatus.SUCCEEDED);
  const [span, ...others] = await algorithm.spans(rollout.rolloutId);
  assert.equal(others.length, 0);
  assert.equal(span?.name, "agentlightning.annotation");
  assert.deepEqual(attributes(span), {
    "agentlightning.reward.0.name": "primary",
    "agentlightning.reward.0.value": 0.5,
  });
});

test("booleans are rewards, other results are kept as objects, and nothing says nothing", async () => {
  const algorithm = new Algorithm(server.address);
  const results = [true, false, { answer: 2n ** 64n }, "text", [1], null, undefined];
  const rollouts = await algorithm.run([0, 1, 2, 3, 4, 5, 6], ({ input }: Task<number>) => results[input]);
  const kept = await Promise.all(
    rollouts.map(async ({ rolloutId }) => (await algorithm.spans(rolloutId)).map((span) => attributes(span))),
  );
  const object = (type: string, of: object) => [{ "agentlightning.object.type": type, ...of }];
  assert.deepEqual(
    kept.map((spans) => spans.map((span) => span["agentlightning.reward.0.value"] ?? span)),
    [
      [1n],
      [0n],
      object("dict", { "agentlightning.object.json": '{"answer":18446744073709551616}' }),
      object("str", { "agentlightning.object.literal": "text" }),
      object("list", { "agentlightning.object.json": "[1]" }),
      [],
      [],
    ],
  );
});

test("what an agent emits lies in its trace, the primary reward first", async () => {
  const algorithm = new Algorithm(server.address);
  const [rollout] = await algorithm.run([0], async ({ tracer }) => {
    emitMessage("bonjour 🚀");
    await tracer.startActiveSpan("think", async (span) => {
      await sleep(1);
      emitObject({ plan: [1, 2] });
      span.end();
    });
    trace.getTracer("of the application").startSpan("library").end();
    emitReward({ style: 0.25, correctness: 1.5 }, "correctness");
  });
  assert.ok(rollout);
  const spans = await algorithm.spans(rollout.rolloutId);
  assert.deepEqual(
    spans.map(({ name }) => name),
    ["agentlightning.message", "agentlightning.object", "think", "library", "agentlightning.annotation"],
  );
  assert.equal(new Set(spans.map(({ traceId }) => Buffer.from(traceId).toString("hex"))).size, 1);
  assert.deepEqual(spans[1]?.parentSpanId, spans[2]?.spanId);
  assert.deepEqual(attributes(spans[0]), { "agentlightning.message.body": "bonjour 🚀" });
  assert.deepEqual(attributes(spans[4]), {
    "agentlightning.reward.0.name": "correctness",
    "agentlightning.reward.0.value": 1.5,
    "agentlightning.reward.1.name": "style",
    "agentlightning.reward.1.value": 0.25,
  });
  assert.throws(() => emitReward(1), /no attempt is running here/);
});

test("input, metadata and resources arrive as they were sent", async () => {
  const algorithm = new Algorithm(server.address);
  const llm = {
    endpoint: "http://gateway/v1",
    model: "m",
    apiKey: "k",
    samplingParameters: toPayload({ seed: 2n ** 60n, temperature: 0.5 }, "parameters"),
  };
  await algorithm.store.resources.addResources({
    resourcesId: "rs",
    resources: [
      { name: "z", resource: { kind: { case: "llm", value: llm } } },
      { name: "proxy", resource: { kind: { case: "proxyLlm", value: { llm } } } },
      {
        name: "prompt",
        resource: { kind: { case: "promptTemplate", value: { template: "{{{a}}} {b}", engine: "f-string" } } },
      },
      {
        name: "a",
        resource: { kind: { case: "custom", value: { resourceType: "tool", body: toPayload([1], "body") } } },
      },
    ],
  });
  const [id] = await algorithm.enqueue([{ question: "π?", seed: 2n ** 63n - 1n }]);
  const seen = deferred<Task<{ question: string; seed: bigint }>>();
  await algorithm.runner({ maxRollouts: 1 }).run<{ question: string; seed: bigint }>((task) => seen.resolve(task));
  const { input, resources, attempt, rollout } = await seen.promise;
  assert.deepEqual(input, { question: "π?", seed: 9223372036854775807n });
  assert.deepEqual([...resources.keys()], ["z", "proxy", "prompt", "a"]);
  assert.deepEqual(resources.llm(), {
    kind: "llm",
    baseUrl: "http://gateway/v1",
    model: "m",
    apiKey: "k",
    samplingParameters: { seed: 2n ** 60n, temperature: 0.5 },
  });
  assert.equal(rollout.rolloutId, id);
  assert.equal(resources.llm("proxy").baseUrl, `http://gateway/rollout/${id}/attempt/${attempt.attemptId}/v1`);
  assert.equal(resources.promptTemplate().format({ a: 1, b: "two" }), "{1} two");
  assert.throws(() => resources.promptTemplate().format({ a: 1 }), /"\{b\}".*values for: a/);
  assert.deepEqual(resources.get("a"), { kind: "custom", resourceType: "tool", body: [1] });
});

test("what an agent throws fails its attempt and not the runner", async () => {
  const algorithm = new Algorithm(server.address);
  const rollouts = await algorithm.run(["sync", "async", "string", "NaN", "fine"], ({ input }: Task<string>) => {
    switch (input) {
      case "sync":
        throw new RangeError("no such number");
      case "async":
        return Promise.reject(new Error("half a surrogate \ud800"));
      case "string":
        // eslint-disable-next-line no-throw-literal
        throw "thrown";
      case "NaN":
        return NaN;
      default:
        return 1;
    }
  });
  assert.deepEqual(
    rollouts.map(({ latestAttempt }) => [latestAttempt?.failure?.kind, latestAttempt?.failure?.message]),
    [
      [AttemptFailureKind.AGENT_ERROR, "RangeError: no such number"],
      [AttemptFailureKind.AGENT_ERROR, "Error: half a surrogate \ufffd"],
      [AttemptFailureKind.AGENT_ERROR, "the agent threw thrown"],
      [AttemptFailureKind.AGENT_ERROR, "TypeError: the reward is NaN; it must be a finite number"],
      [undefined, undefined],
    ],
  );
});

test("resources that are missing, or lack what the agent needs, fail the attempt as such", async () => {
  const algorithm = new Algorithm(server.address);
  const unnamed = await algorithm.enqueue([0]);
  const unknown = await algorithm.enqueue([1], { resourcesId: "rs-unknown" });
  await algorithm.runner({ maxRollouts: 2 }).run(() => 1);
  await algorithm.publish();
  const lacking = await algorithm.enqueue([2]);
  await algorithm.runner({ maxRollouts: 1 }).run(({ resources }) => resources.llm().model);
  const attempts = await Promise.all([...unnamed, ...unknown, ...lacking].map((id) => algorithm.attempt(id)));
  assert.deepEqual(
    attempts.map(({ failure }) => failure?.kind),
    attempts.map(() => AttemptFailureKind.MISSING_RESOURCES),
  );
  assert.match(attempts[0]?.failure?.message ?? "", /the store holds no resources/);
  assert.match(attempts[1]?.failure?.message ?? "", /no resources rs-unknown/);
  assert.match(attempts[2]?.failure?.message ?? "", /no resource of the kind llm among the resources: prompt/);
});

test("an input that is no JSON fails its attempt and not the runner", async () => {
  const algorithm = new Algorithm(server.address);
  await algorithm.publish();
  const [id] = await algorithm.enqueue([0], { input: { contentType: "text/plain", data: Uint8Array.of(1) } });
  await algorithm.runner({ maxRollouts: 1 }).run(() => 1);
  const { failure } = await algorithm.attempt(id as string);
  assert.equal(failure?.kind, AttemptFailureKind.INFRASTRUCTURE);
  assert.match(failure.message, /content type "text\/plain"/);
});

test("a new version of the resources reaches the next rollout", async () => {
  const algorithm = new Algorithm(server.address);
  const update = (template: string) =>
    algorithm.store.resources.updateResources({
      resourcesId: "rs",
      resources: [
        { name: "p", resource: { kind: { case: "promptTemplate", value: { template, engine: "f-string" } } } },
      ],
    });
  await update("one");
  const [first] = await algorithm.enqueue([0]);
  const seen: string[] = [];
  const runner = algorithm.runner({ maxRollouts: 3 });
  const running = runner.run(({ resources }) => void seen.push(resources.promptTemplate().template));
  await algorithm.finished([first as string]);
  await algorithm.finished(await algorithm.enqueue([1]));
  await update("two");
  await algorithm.finished(await algorithm.enqueue([2]));
  await running;
  assert.deepEqual(seen, ["one", "one", "two"]);
});

test("a rollout that is cancelled aborts its agent's signal, and no other", async () => {
  const algorithm = new Algorithm(server.address);
  await algorithm.publish();
  const [cancelled, kept] = (await algorithm.enqueue(["cancelled", "kept"])) as [string, string];
  const release = deferred();
  const runner = algorithm.runner({ concurrency: 2, maxRollouts: 2, heartbeatMs: 50 });
  const running = runner.run(async ({ input, signal }: Task<string>) => {
    await Promise.race([aborted(signal), release.promise]);
    assert.equal(signal.aborted, input === "cancelled");
    return 1;
  });
  await algorithm.until(cancelled, RolloutStatus.RUNNING);
  await algorithm.store.rollouts.updateRollout({ rolloutId: cancelled, status: RolloutStatus.CANCELLED });
  const { failure } = await attemptAfterStatus(algorithm, cancelled, AttemptStatus.FAILED);
  assert.equal(failure?.kind, AttemptFailureKind.CANCELLED);
  release.resolve();
  await running;
  assert.equal((await algorithm.rollout(kept)).status, RolloutStatus.SUCCEEDED);
  assert.equal((await algorithm.rollout(cancelled)).status, RolloutStatus.CANCELLED);
});

test("an agent that does not heed its signal is left behind, and what it still emits is dropped", async () => {
  const algorithm = new Algorithm(server.address);
  await algorithm.publish();
  const [id] = (await algorithm.enqueue([0])) as [string];
  const begun = deferred();
  const late = deferred();
  const gone = deferred();
  const runner = algorithm.runner({ stopGraceMs: 10 });
  const running = runner.run(async () => {
    begun.resolve();
    await late.promise;
    emitReward(1);
    gone.resolve();
  });
  await begun.promise;
  runner.abort("test");
  await running;
  late.resolve();
  await gone.promise;
  assert.deepEqual((await algorithm.attempt(id)).failure?.message, "test");
  assert.deepEqual(await algorithm.spans(id), []);
});

test("a runner that is stopped finishes what it holds and takes nothing more", async () => {
  const algorithm = new Algorithm(server.address);
  await algorithm.publish();
  const [first, second] = (await algorithm.enqueue([0, 1])) as [string, string];
  const begun = deferred();
  const release = deferred();
  const runner = algorithm.runner();
  const running = runner.run(async () => {
    begun.resolve();
    await release.promise;
    return 1;
  });
  await begun.promise;
  runner.stop();
  runner.stop();
  release.resolve();
  assert.equal(await running, 1);
  assert.equal((await algorithm.rollout(first)).status, RolloutStatus.SUCCEEDED);
  assert.equal((await algorithm.rollout(second)).status, RolloutStatus.QUEUING);
});

test("a runner that waits for work leaves at once, and its experiment may begin after it", async () => {
  const algorithm = new Algorithm(server.address);
  const told = deferred<string>();
  const runner = algorithm.runner({ pollMs: 60_000, logger: { ...silent, warn: told.resolve } });
  const running = runner.run(() => 1);
  assert.match(await told.promise, /waits for an algorithm to begin/);
  await algorithm.publish();
  await algorithm.finished(await algorithm.enqueue([0]));
  runner.stop();
  assert.equal(await running, 1);
});

test("a runner that its grace runs out for reports what is left as cancelled", async () => {
  const algorithm = new Algorithm(server.address);
  await algorithm.publish();
  const [id] = (await algorithm.enqueue([0])) as [string];
  const runner = algorithm.runner({ graceMs: 1 });
  await runner.run(async ({ signal }) => {
    runner.stop("the machine is taken away");
    await aborted(signal);
  });
  const { failure } = await algorithm.attempt(id);
  assert.deepEqual([failure?.kind, failure?.message], [AttemptFailureKind.CANCELLED, "the machine is taken away"]);
});

test("a worker that an operator drains finishes what it holds and leaves", async () => {
  const algorithm = new Algorithm(server.address);
  await algorithm.publish();
  const [id] = (await algorithm.enqueue([0, 1])) as [string, string];
  const runner = algorithm.runner({ heartbeatMs: 50, pollMs: 100 });
  const taken = await runner.run(async () => {
    await algorithm.store.workers.updateWorker({ workerId: runner.workerId, draining: true });
    return 1;
  });
  assert.equal(taken, 1);
  assert.equal((await algorithm.rollout(id)).status, RolloutStatus.SUCCEEDED);
});

test("heartbeats list what is held, renew leases and tell of the process", async () => {
  const algorithm = new Algorithm(server.address);
  await algorithm.publish();
  const [id] = (await algorithm.enqueue([0])) as [string];
  const release = deferred();
  const runner = algorithm.runner({ heartbeatMs: 50, maxRollouts: 1, workerId: "node-1" });
  const running = runner.run(() => release.promise);
  await algorithm.until(id, RolloutStatus.RUNNING); // an attempt that lasts is reported as begun, spans or not
  const seen = new Set<string>();
  while (seen.size < 3) {
    await sleep(20);
    const attempt = await algorithm.attempt(id);
    assert.equal(attempt.workerId, "node-1");
    assert.ok(attempt.leaseRemaining && attempt.leaseRemaining.seconds <= 5n);
    const { seconds, nanos } = attempt.lastHeartbeatTime ?? { seconds: 0n, nanos: 0 };
    seen.add(`${seconds}.${nanos}`);
  }
  const { worker } = await algorithm.store.workers.getWorker({ workerId: "node-1" });
  assert.equal(worker?.status, WorkerStatus.BUSY);
  release.resolve();
  await running;
});

test("spans of 200 rollouts at once do not mix", async () => {
  const algorithm = new Algorithm(server.address);
  const all = deferred();
  let inside = 0;
  let most = 0;
  const agent = async ({ input, rollout, tracer }: Task<number>): Promise<number> => {
    inside += 1;
    most = Math.max(most, inside);
    if (inside === 200) {
      all.resolve();
    }
    const note = { input, rollout: rollout.rolloutId };
    await tracer.startActiveSpan("outer", { attributes: note }, async (outer) => {
      await all.promise;
      for (let turn = 0; turn < 3; turn += 1) {
        await sleep(Math.random() * 5);
        trace.getTracer("library").startSpan("inner", { attributes: note }, context.active()).end();
      }
      outer.end();
    });
    inside -= 1;
    return input;
  };
  const inputs = Array.from({ length: 200 }, (_, input) => input);
  const rollouts = await algorithm.run(inputs, agent, { concurrency: 200 });
  assert.equal(most, 200);
  const found = await algorithm.spansOf(rollouts.map(({ rolloutId }) => rolloutId));
  for (const [input, { rolloutId }] of rollouts.entries()) {
    const spans = found.get(rolloutId) ?? [];
    assert.deepEqual(spans.map(({ name }) => name).sort(), [
      "agentlightning.annotation",
      "inner",
      "inner",
      "inner",
      "outer",
    ]);
    const outer = spans.find(({ name }) => name === "outer");
    for (const span of spans) {
      assert.equal(span.rolloutId, rolloutId);
      if (span.name === "agentlightning.annotation") {
        assert.equal(attributes(span)["agentlightning.reward.0.value"], BigInt(input));
      } else {
        assert.deepEqual(attributes(span), { input: BigInt(input), rollout: rolloutId });
        assert.deepEqual(span.traceId, outer?.traceId);
        assert.deepEqual(span.parentSpanId, span === outer ? new Uint8Array() : outer?.spanId);
      }
    }
  }
});

test("spans leave while the agent still works, and large ones in several calls", async () => {
  const algorithm = new Algorithm(server.address);
  await algorithm.publish();
  const [id] = (await algorithm.enqueue([0])) as [string];
  const text = "x".repeat(1 << 20);
  const running = algorithm.runner({ maxRollouts: 1 }).run(async ({ tracer }) => {
    for (let number = 0; number < 256; number += 1) {
      tracer.startSpan(`${number}`, number < 9 ? { attributes: { text } } : {}).end();
    }
    for (;;) {
      const { pageInfo } = await algorithm.store.spans.listSpans({
        rolloutId: id,
        page: { pageSize: 1, withTotalSize: true },
      });
      if (pageInfo?.totalSize === 256n) {
        return 1;
      }
      await sleep(20);
    }
  });
  await running;
  assert.deepEqual(
    (await algorithm.spans(id)).map(({ name }) => name),
    [...Array.from({ length: 256 }, (_, number) => `${number}`), "agentlightning.annotation"],
  );
});

test("spans of a provider of the application's own belong to the attempt, too", async () => {
  const algorithm = new Algorithm(server.address);
  const provider = new NodeTracerProvider({ spanProcessors: [new AttemptSpanProcessor()] });
  const [rollout] = await algorithm.run([0], ({ tracer }) =>
    tracer.startActiveSpan("outer", (outer) => {
      provider.getTracer("own").startSpan("own").end();
      outer.end();
    }),
  );
  provider.getTracer("own").startSpan("of no attempt").end();
  const [own, outer, ...others] = await algorithm.spans(rollout?.rolloutId ?? "");
  assert.deepEqual([own?.name, outer?.name, others.length], ["own", "outer", 0]);
  assert.deepEqual(own?.parentSpanId, outer?.spanId);
});

test("a rollout that is deleted while it runs takes no other's spans with it", async () => {
  const algorithm = new Algorithm(server.address);
  await algorithm.publish();
  const [deleted, ...kept] = (await algorithm.enqueue([0, 1, 2, 3])) as [string, ...string[]];
  const all = deferred();
  let inside = 0;
  await algorithm.runner({ concurrency: 4, maxRollouts: 4 }).run(async ({ input, tracer }: Task<number>) => {
    inside += 1;
    if (inside === 4) {
      await algorithm.store.rollouts.deleteRollouts({ rolloutIdIn: { values: [deleted] } });
      all.resolve();
    }
    await all.promise;
    tracer.startSpan("last words").end();
    return input;
  });
  const rollouts = await algorithm.finished(kept);
  assert.deepEqual(
    rollouts.map(({ status }) => status),
    kept.map(() => RolloutStatus.SUCCEEDED),
  );
  assert.equal((await algorithm.spans(kept[2] as string)).length, 2);
});

test("an attempt whose spans the store does not take fails", async () => {
  const small = await Server.start("memory://?max_bytes=1048576");
  try {
    const algorithm = new Algorithm(small.address);
    const [rollout] = await algorithm.run([0], ({ tracer }) => {
      tracer.startSpan("large", { attributes: { text: "x".repeat(2 << 20) } }).end();
      return 1;
    });
    assert.equal(rollout?.latestAttempt?.failure?.kind, AttemptFailureKind.INFRASTRUCTURE);
    assert.match(rollout.latestAttempt.failure.message, /^its spans could not be stored: StoreError: /);
  } finally {
    await small.kill("SIGTERM");
  }
});

async function attemptAfterStatus(algorithm: Algorithm, rolloutId: string, status: AttemptStatus) {
  for (;;) {
    const attempt = await algorithm.attempt(rolloutId);
    if (attempt.status === status) {
      return attempt;
    }
    await sleep(10);
  }
}
