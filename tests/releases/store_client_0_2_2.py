"""Every method of the `LightningStoreClient` of 0.2.2, against a server. Runs in that release's environment.

Run as `store_client_0_2_2.py URL`; it fails where an answer is not what that release's users expect.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time

from client_checks import Complaints, refused

from agentlightning.store.client_server import LightningStoreClient
from agentlightning.types import LLM, AttemptedRollout, PromptTemplate, RolloutConfig, Span


def span(rollout: AttemptedRollout, number: int) -> Span:
    return Span.from_attributes(
        attributes={"number": number, "tokens": [1, 2, 3], "ratio": 0.5},
        rollout_id=rollout.rollout_id,
        attempt_id=rollout.attempt.attempt_id,
        sequence_id=number,
        name=f"step {number}",
        trace_id="ab" * 16,
        span_id=f"{number:016x}",
        start_time=1_700_000_000.25,
        end_time=1_700_000_001.5,
    )


async def check_empty(store: LightningStoreClient) -> None:
    assert await store.get_rollout_by_id("ro-none") is None
    assert await store.get_latest_attempt("ro-none") is None
    assert await store.get_latest_resources() is None
    assert await store.get_resources_by_id("rs-none") is None
    assert await store.dequeue_rollout() is None
    assert await store.query_rollouts() == []
    assert await store.query_attempts("ro-none") == []
    assert await store.query_spans("ro-none") == []
    assert await store.wait_for_rollouts(rollout_ids=["ro-none"], timeout=0.1) == []
    await refused(store.start_attempt("ro-none"))
    await refused(store.update_rollout("ro-none", status="cancelled"))
    await refused(store.update_attempt("ro-none", "latest", status="failed"))
    await refused(store.get_next_span_sequence_id("ro-none", "at-none"))


async def main(url: str) -> None:
    complaints = Complaints()
    logging.getLogger("agentlightning").addHandler(complaints)
    store = LightningStoreClient(url)
    await check_empty(store)
    llm = LLM(endpoint="http://127.0.0.1:1/v1", model="m", sampling_parameters={"temperature": 0.5})
    first = await store.add_resources({"main": llm})
    assert (await store.get_resources_by_id(first.resources_id)) == first
    second = await store.update_resources("rs-mine", {"prompt": PromptTemplate(template="{x}", engine="f-string")})
    assert await store.get_latest_resources() == second

    config = RolloutConfig(timeout_seconds=60, max_attempts=2, retry_condition=["failed"])
    queued = await store.enqueue_rollout({"q": [1, None]}, "train", "rs-mine", config, {"level": 1})
    assert (queued.input, queued.mode, queued.resources_id) == ({"q": [1, None]}, "train", "rs-mine")
    assert (queued.config, queued.metadata) == (config, {"level": 1})
    claimed = await store.dequeue_rollout()
    assert claimed is not None
    assert (claimed.rollout_id, claimed.status, claimed.attempt.sequence_id) == (queued.rollout_id, "preparing", 1)
    place = claimed.rollout_id, claimed.attempt.attempt_id
    assert [await store.get_next_span_sequence_id(*place) for _ in range(2)] == [1, 2]
    sent = [span(claimed, number) for number in (1, 2)]
    for one in (*sent, sent[0]):
        assert (await store.add_span(one)).model_dump() == one.model_dump()
    for attempt_id in (None, "latest", place[1]):
        assert [one.name for one in await store.query_spans(place[0], attempt_id)] == ["step 1", "step 2"]
    attempt = await store.update_attempt(*place, worker_id="w", last_heartbeat_time=time.time(), metadata={"a": 1})
    assert (attempt.status, attempt.worker_id, attempt.metadata) == ("running", "w", {"a": 1})
    await store.update_attempt(place[0], "latest", status="failed")
    again = await store.dequeue_rollout()
    assert again is not None
    assert (again.rollout_id, again.attempt.sequence_id) == (queued.rollout_id, 2)
    await store.update_attempt(place[0], "latest", status="succeeded")
    assert [one.status for one in await store.query_attempts(place[0])] == ["failed", "succeeded"]
    assert [one.status for one in await store.wait_for_rollouts(rollout_ids=[place[0]])] == ["succeeded"]

    started = await store.start_rollout("mine", "val", metadata={"b": 2})
    assert (await store.start_attempt(started.rollout_id)).attempt.sequence_id == 2
    latest = await store.get_latest_attempt(started.rollout_id)
    assert latest is not None
    assert latest.sequence_id == 2
    changed = await store.update_rollout(
        started.rollout_id, input=[1], mode=None, resources_id=None, status="cancelled", config=config, metadata={}
    )
    assert (changed.input, changed.mode, changed.resources_id, changed.status) == ([1], None, None, "cancelled")
    assert await store.get_rollout_by_id(started.rollout_id) == changed
    found = await store.query_rollouts(status=["cancelled"])
    assert [one.rollout_id for one in found] == [started.rollout_id]
    assert len(await store.query_rollouts(rollout_ids=[place[0], started.rollout_id])) == 2
    await store.close()
    assert not complaints.heard, complaints.heard


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
