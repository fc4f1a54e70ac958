import { setTimeout as sleep } from "node:timers/promises";

import { connect, Runner, toPayload } from "agentlightning-grpc";
import { RolloutStatus } from "agentlightning-grpc/v1";

// One runner process: how many rollouts a second it runs, and how many of them at once. Its twin is benchmarks/runner.py.
const [address = "", count = "", atOnce = "", waitMs = ""] = process.argv.slice(2);
const rollouts = Number(count);
const concurrency = Number(atOnce);
const store = connect({ address });
await store.resources.addResources({});
for (let first = 0; first < rollouts; first += 1_000) {
  const length = Math.min(1_000, rollouts - first);
  await store.rollouts.enqueueRollouts({
    rollouts: Array.from({ length }, (_, index) => ({ input: toPayload({ index: first + index }, "input") })),
  });
}
let running = 0;
let most = 0;
const started = performance.now();
const done = await new Runner({ address, concurrency, maxRollouts: rollouts }).run(async ({ tracer }) => {
  running += 1;
  most = Math.max(most, running);
  const span = tracer.startSpan("work", { attributes: { "gen_ai.request.model": "m", turn: 1 } });
  await sleep(Number(waitMs));
  span.end();
  running -= 1;
  return 1;
});
const seconds = (performance.now() - started) / 1_000;
const { totalSpans, rolloutsByStatus } = await store.store.getStatistics({});
store.close();
console.log(
  JSON.stringify({
    per_s: done / seconds,
    most_at_once: most,
    spans: Number(totalSpans),
    succeeded: Number(rolloutsByStatus.find(({ status }) => status === RolloutStatus.SUCCEEDED)?.count ?? 0n),
  }),
);
