"""Clients of 0.2.2, unchanged."""

from __future__ import annotations

import asyncio

from conftest import Release, Server, ended_well

from agentlightning import LLM, TracerTraceToTriplet, find_final_reward
from agentlightning.rest.translate import report_in
from agentlightning.store.client import LightningStoreClient


async def test_its_legacy_client_polls_tasks_and_posts_rollouts(
    release_0_2_2: Release, server: Server, store: LightningStoreClient
) -> None:
    parameters = {"factor": 0.5}
    await store.add_resources({"main": LLM(endpoint="http://127.0.0.1:1", model="m", sampling_parameters=parameters)})
    worker = release_0_2_2.start("legacy_client_0_2_2.py", server.url, "4")
    rollouts = [await store.enqueue_rollout({"number": number}, "train") for number in range(4)]
    await asyncio.to_thread(ended_well, worker)
    finished = await store.wait_for_rollouts(rollout_ids=[rollout.rollout_id for rollout in rollouts], timeout=0)
    assert [rollout.status for rollout in finished] == ["succeeded"] * 4
    for number, rollout in enumerate(rollouts):
        spans = await store.query_spans(rollout.rollout_id)
        assert find_final_reward(spans) == 0.5 * number
        report = report_in(spans)
        assert report is not None
        assert (report.logs, report.metadata) == ([f"worked on {number}"], {"by": "0.2.2"})
        if number % 2 == 0:
            (triplet,) = TracerTraceToTriplet().adapt(spans)
            assert triplet.prompt["token_ids"] == [1, number]
            assert (triplet.response["token_ids"], triplet.reward) == ([2, number], 0.25)
        else:
            (thought,) = [span for span in spans if span.name == "think"]
            assert thought.attributes["number"] == number


async def test_its_store_client_finds_every_method(release_0_2_2: Release, server: Server) -> None:
    await asyncio.to_thread(release_0_2_2.run, "store_client_0_2_2.py", server.url)
