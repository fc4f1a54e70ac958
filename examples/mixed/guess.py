"""The Python runner of the example: `guess.py ADDRESS WORKER`. Its twins are in clients/typescript and clients/go."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import agentlightning as agl


@agl.rollout
async def guess(task: dict[str, Any], prompt_template: agl.PromptTemplate) -> float:
    """Earns more, the nearer the published prompt is to the target."""
    await asyncio.sleep(task["seconds"])
    return 1 / (1 + abs(task["target"] - float(prompt_template.format())))


async def main(address: str, worker: str) -> None:
    """Takes rollouts until the store says that this worker is to leave."""
    store = agl.LightningStoreClient(address)
    runner: agl.LitAgentRunner[Any] = agl.LitAgentRunner(
        agl.OtelTracer(instrument=False), heartbeat_interval=1.0, max_concurrency=4
    )
    runner.init(guess)
    runner.init_worker(0, store, worker_name=worker)
    await runner.iter()
    runner.teardown_worker(0)
    runner.teardown()
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
