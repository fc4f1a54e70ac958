import { setTimeout as sleep } from "node:timers/promises";

import { Runner } from "agentlightning-grpc";

interface Question {
  readonly target: number;
  /** How long the agent is to think. */
  readonly seconds: number;
}

const [address = "127.0.0.1:4747", workerId] = process.argv.slice(2);
const runner = new Runner({ address, workerId, concurrency: 4, heartbeatMs: 1_000 });

// Earns more, the nearer the published prompt is to the target.
await runner.run<Question>(async ({ input, resources, signal, tracer }) => {
  const guess = Number(resources.promptTemplate().format());
  await tracer.startActiveSpan("think", { attributes: { guess } }, async (span) => {
    await sleep(input.seconds * 1_000, undefined, { signal });
    span.end();
  });
  return 1 / (1 + Math.abs(input.target - guess));
});
