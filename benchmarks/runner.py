"""One Python runner process: how many rollouts a second it runs, and how many of them at once.

`runner.py ADDRESS ROLLOUTS CONCURRENCY WAIT_MS`. Its twin is clients/typescript/bench/runner.ts.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from opentelemetry import trace

import agentlightning as agl
from agentlightning.types import EnqueueRolloutRequest


async def main(address: str, rollouts: int, concurrency: int, wait_s: float) -> None:
    store = agl.LightningStoreClient(address)
    await store.add_resources({"llm": agl.LLM(endpoint="http://127.0.0.1:9/v1", model="m")})
    for first in range(0, rollouts, 1_000):
        indices = range(first, min(first + 1_000, rollouts))
        await store.enqueue_many_rollouts([EnqueueRolloutRequest(input={"index": index}) for index in indices])
    running = most = 0

    @agl.rollout
    async def agent(task: dict[str, Any], llm: agl.LLM) -> float:
        nonlocal running, most
        running += 1
        most = max(most, running)
        with trace.get_tracer("bench").start_as_current_span("work") as span:
            span.set_attributes({"gen_ai.request.model": "m", "turn": 1})
            await asyncio.sleep(wait_s)
        running -= 1
        return 1.0

    runner: agl.LitAgentRunner[Any] = agl.LitAgentRunner(
        agl.OtelTracer(instrument=False), max_rollouts=rollouts, max_concurrency=concurrency
    )
    runner.init(agent)
    runner.init_worker(0, store, worker_name="bench-python")
    started = time.perf_counter()
    await runner.iter()
    seconds = time.perf_counter() - started
    runner.teardown_worker(0)
    runner.teardown()
    statistics = await store.statistics()
    succeeded = len(await store.query_rollouts(status_in=["succeeded"]))
    await store.close()
    answer = {"per_s": rollouts / seconds, "most_at_once": most, "spans": statistics["total_spans"]}
    print(json.dumps({**answer, "succeeded": succeeded}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]) / 1_000))
