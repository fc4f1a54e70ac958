"""Clients, runners and algorithms of 0.3.0, unchanged."""

from __future__ import annotations

import asyncio

from conftest import Release, Server, ended_well

from agentlightning import TracerTraceToTriplet, find_final_reward
from agentlightning.store.client import LightningStoreClient


async def test_its_store_client_finds_every_method(release_0_3_0: Release, server: Server) -> None:
    await asyncio.to_thread(release_0_3_0.run, "store_client_0_3_0.py", server.url)


async def test_its_trainer_runs_from_end_to_end(
    release_0_3_0: Release, server: Server, store: LightningStoreClient
) -> None:
    sides = [release_0_3_0.start("trainer_0_3_0.py", role, server.url) for role in ("runner", "algorithm")]
    await asyncio.to_thread(ended_well, *sides)
    rollouts = await store.query_rollouts(sort_by="start_time")
    assert [(one.input, one.mode) for one in rollouts] == [
        ({"number": number}, "train" if number < 4 else "val") for number in range(6)
    ]
    assert [one.status for one in rollouts] == ["succeeded"] * 5 + ["failed"]
    for number, rollout in enumerate(rollouts):
        spans = await store.query_spans(rollout.rollout_id, "latest")
        (call,) = [span for span in spans if span.name == "openai.chat.completion"]
        assert call.attributes["gen_ai.prompt.0.content"] == f"number {number}"
        assert find_final_reward(spans) == (number / 2 if number < 5 else None)
        (triplet,) = TracerTraceToTriplet().adapt(spans)
        assert (triplet.prompt["token_ids"], triplet.response["token_ids"]) == ([1, 2, number], [3, number])
        assert [span.sequence_id for span in spans] == list(range(1, len(spans) + 1))
    assert {worker.current_rollout_id for worker in await store.query_workers()} == {None}
