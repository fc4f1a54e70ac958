"""Runners in other languages lose nothing and do nothing twice when answers get lost and connections break."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from commands import ROOT
from lossy_proxy import lossy_proxy
from store_process import StoreProcess

from agentlightning import LightningStoreClient, PromptTemplate, find_final_reward
from agentlightning.types import EnqueueRolloutRequest

ROLLOUTS = 60


@pytest.fixture
def command(request: pytest.FixtureRequest) -> list[str]:
    """How to start the runner of a language; address and worker follow."""
    if request.param == "go":
        request.getfixturevalue("go_environment")
        return [str(ROOT / "build/go/guess"), "-worker", "lossy", "-address"]
    folder: Path = request.getfixturevalue("typescript")
    return ["node", str(folder / "build/examples/guess.js")]


@pytest.mark.parametrize("command", ["typescript", "go"], indirect=True)
async def test_each_rollout_is_run_and_reported_once_though_answers_get_lost(command: list[str]) -> None:
    server = StoreProcess(options=["--log-level", "ERROR"])
    server.start()
    store = LightningStoreClient(server.address)
    try:
        await store.add_resources({"number": PromptTemplate(template="1", engine="f-string")})
        rollouts = await store.enqueue_many_rollouts(
            [EnqueueRolloutRequest(input={"target": 1 + index, "seconds": 0.01}) for index in range(ROLLOUTS)]
        )
        async with lossy_proxy(server.address) as proxy:
            runner = await asyncio.create_subprocess_exec(*command, proxy.address)
            try:
                finished = 0
                async for _ in store.wait_iter(rollout_ids=[rollout.rollout_id for rollout in rollouts], timeout=60):
                    finished += 1
                    if finished % 5 == 0:
                        proxy.answers_to_lose = 1
                    if finished % 20 == 0:
                        proxy.cut()
                assert proxy.lost >= 3
                await store.update_worker((await store.query_workers())[0].worker_id, draining=True)
                assert await asyncio.wait_for(runner.wait(), 20) == 0
            finally:
                if runner.returncode is None:
                    runner.kill()
                    await runner.wait()
        assert finished == ROLLOUTS
        for index, rollout in enumerate(rollouts):
            [attempt] = await store.query_attempts(rollout.rollout_id)
            assert attempt.status == "succeeded"
            spans = await store.query_spans(rollout.rollout_id)
            assert [span.name for span in spans if span.name == "agentlightning.annotation"] == [
                "agentlightning.annotation"
            ]
            assert find_final_reward(spans) == 1 / (1 + index)
    finally:
        await store.close()
        server.stop()
