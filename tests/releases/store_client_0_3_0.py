"""Every method of the `LightningStoreClient` of 0.3.0, against a server. Runs in that release's environment.

Run as `store_client_0_3_0.py URL`; it fails where an answer is not what that release's users expect.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from typing import Any

from client_checks import Complaints, refused

from agentlightning import LLM, LightningStoreClient, PromptTemplate, RolloutConfig, Span
from agentlightning.types import AttemptedRollout, EnqueueRolloutRequest, PaginatedResult


def span(rollout: AttemptedRollout, number: int, **attributes: Any) -> Span:
    return Span.from_attributes(
        attributes={"number": number, **attributes},
        rollout_id=rollout.rollout_id,
        attempt_id=rollout.attempt.attempt_id,
        sequence_id=number,
        name=f"step {number}",
        trace_id="ab" * 16,
        span_id=f"{number:016x}",
        parent_id=f"{number - 1:016x}" if number > 1 else None,
        start_time=1_700_000_000.25,
        end_time=1_700_000_001.5,
    )


async def check_empty(store: LightningStoreClient) -> None:
    """What there is not is None or empty."""
    assert await store.get_rollout_by_id("ro-none") is None
    assert await store.get_latest_attempt("ro-none") is None
    assert await store.get_latest_resources() is None
    assert await store.get_resources_by_id("rs-none") is None
    assert await store.get_worker_by_id("nobody") is None
    assert await store.dequeue_rollout() is None
    for listing in (
        store.query_rollouts(),
        store.query_attempts("ro-none"),
        store.query_resources(),
        store.query_workers(),
        store.query_spans("ro-none"),
    ):
        found = await listing
        assert isinstance(found, PaginatedResult), found
        assert (list(found), found.total) == ([], 0)
    assert await store.wait_for_rollouts(rollout_ids=["ro-none"], timeout=0.1) == []


async def check_refusals(store: LightningStoreClient) -> None:
    await refused(store.start_attempt("ro-none"))
    await refused(store.update_rollout("ro-none", status="cancelled"))
    await refused(store.update_attempt("ro-none", "latest", status="failed"))
    await refused(store.get_next_span_sequence_id("ro-none", "at-none"))
    await refused(store.query_rollouts(sort_by="nothing"))
    await refused(store.query_rollouts(limit=-5))
    await refused(store.enqueue_rollout(float("nan")))


async def check_resources(store: LightningStoreClient) -> None:
    llm = LLM(endpoint="http://127.0.0.1:1/v1", model="m", sampling_parameters={"temperature": 0.5})
    first = await store.add_resources({"main": llm})
    second = await store.update_resources("rs-mine", {"prompt": PromptTemplate(template="{x}", engine="f-string")})
    assert await store.get_latest_resources() == second
    assert await store.get_resources_by_id(first.resources_id) == first
    assert first.resources == {"main": llm}
    assert (second.resources_id, second.version) == ("rs-mine", 1)
    assert (await store.update_resources("rs-mine", {"main": llm})).version == 2
    listed = await store.query_resources(resources_id_contains="rs-", sort_by="create_time", sort_order="desc", limit=1)
    assert ([item.resources_id for item in listed], listed.total) == (["rs-mine"], 2)


async def check_rollouts(store: LightningStoreClient) -> None:
    config = RolloutConfig(timeout_seconds=60, max_attempts=2, retry_condition=["failed"])
    first = await store.enqueue_rollout({"question": ["1+1", None]}, "train", "rs-mine", config, {"level": 1})
    assert (first.input, first.mode, first.resources_id) == ({"question": ["1+1", None]}, "train", "rs-mine")
    assert (first.status, first.config, first.metadata) == ("queuing", config, {"level": 1})
    second, third = await store.enqueue_many_rollouts([EnqueueRolloutRequest(input=n) for n in (2, 3)])
    assert second.resources_id == "rs-mine", "the latest"
    assert await store.enqueue_many_rollouts([]) == []

    claimed = await store.dequeue_rollout(worker_id="worker-1")
    assert isinstance(claimed, AttemptedRollout)
    assert (claimed.rollout_id, claimed.status) == (first.rollout_id, "preparing")
    assert (claimed.attempt.sequence_id, claimed.attempt.worker_id) == (1, "worker-1")
    more = await store.dequeue_many_rollouts(limit=5, worker_id="worker-2")
    assert [rollout.rollout_id for rollout in more] == [second.rollout_id, third.rollout_id]

    await store.update_attempt(first.rollout_id, claimed.attempt.attempt_id, status="failed")
    again = await store.dequeue_rollout(worker_id="worker-1")
    assert again is not None
    assert (again.rollout_id, again.attempt.sequence_id) == (first.rollout_id, 2)
    attempt = await store.update_attempt(
        first.rollout_id, "latest", worker_id="worker-3", last_heartbeat_time=time.time(), metadata={"a": 1}
    )
    assert (attempt.attempt_id, attempt.worker_id, attempt.metadata) == (again.attempt.attempt_id, "worker-3", {"a": 1})
    attempts = await store.query_attempts(first.rollout_id, sort_order="desc", limit=1)
    assert ([one.sequence_id for one in attempts], attempts.total) == ([2], 2)
    assert await store.get_latest_attempt(first.rollout_id) == attempts[0]

    started = await store.start_rollout("mine", "val", metadata={"b": 2}, worker_id="worker-4")
    assert (started.status, started.attempt.worker_id) == ("preparing", "worker-4")
    retried = await store.start_attempt(started.rollout_id)
    assert retried.attempt.sequence_id == 2
    changed = await store.update_rollout(
        started.rollout_id, input=[1], mode=None, resources_id=None, status="cancelled", config=config, metadata={}
    )
    assert (changed.input, changed.mode, changed.resources_id) == ([1], None, None)
    assert (changed.status, changed.config, changed.metadata) == ("cancelled", config, {})

    listed = await store.query_rollouts(status_in=["preparing"], sort_by="start_time", limit=2)
    assert ([one.rollout_id for one in listed], listed.total) == ([first.rollout_id, second.rollout_id], 3)
    assert all(isinstance(one, AttemptedRollout) for one in listed)
    assert (await store.query_rollouts(status_in=[])).total == 0
    assert (await store.query_rollouts(rollout_id_in=[])).total == 0
    either = await store.query_rollouts(
        status_in=["cancelled"], rollout_id_in=[first.rollout_id], filter_logic="or", sort_by="start_time"
    )
    assert [one.rollout_id for one in either] == [first.rollout_id, started.rollout_id]
    part = await store.query_rollouts(rollout_id_contains=first.rollout_id[3:])
    assert [one.rollout_id for one in part] == [first.rollout_id]
    assert (await store.get_rollout_by_id(first.rollout_id)) == again.model_copy(
        update={"attempt": attempts[0], "status": part[0].status}
    )

    await store.update_attempt(first.rollout_id, "latest", status="succeeded")
    ids = [third.rollout_id, first.rollout_id, started.rollout_id, "ro-none"]
    finished = await store.wait_for_rollouts(rollout_ids=ids, timeout=0.05)
    assert [(one.rollout_id, one.status) for one in finished] == [
        (first.rollout_id, "succeeded"),
        (started.rollout_id, "cancelled"),
    ]
    ended = await store.wait_for_rollouts(rollout_ids=[first.rollout_id])  # without a time
    assert [one.status for one in ended] == ["succeeded"]


async def check_spans(store: LightningStoreClient) -> None:
    rollout = await store.start_rollout("spans")
    place = rollout.rollout_id, rollout.attempt.attempt_id
    assert [await store.get_next_span_sequence_id(*place) for _ in range(2)] == [1, 2]
    assert await store.get_many_span_sequence_ids([place, place]) == [3, 4]
    sent = [span(rollout, number, tokens=[1, 2, 3], text="\u4f60\u597d", ratio=0.5, yes=True) for number in (1, 2, 3)]
    stored = await store.add_span(sent[0])
    assert stored is not None
    assert stored.model_dump() == sent[0].model_dump()
    assert await store.add_span(sent[0]) is None, "it was there"
    assert [one.span_id for one in await store.add_many_spans(sent)] == [sent[1].span_id, sent[2].span_id]
    assert [one.model_dump() for one in await store.query_spans(place[0])] == [one.model_dump() for one in sent]
    found = await store.query_spans(
        place[0], "latest", name_contains="step", parent_id=sent[0].span_id, sort_by="name", sort_order="desc", limit=1
    )
    assert ([one.name for one in found], found.total) == (["step 2"], 1)
    either = await store.query_spans(place[0], name="step 1", span_id=sent[2].span_id, filter_logic="or")
    assert [one.name for one in either] == ["step 1", "step 3"]
    assert (await store.query_spans(place[0], filter_logic="or")).total == 3, "no condition matches all"
    await refused(store.add_span(span(rollout, 9).model_copy(update={"rollout_id": "ro-none"})))
    await refused(store.add_span(span(rollout, 9).model_copy(update={"span_id": "not hex"})))
    latest = await store.get_latest_attempt(place[0])
    assert latest is not None
    assert latest.status == "running"


async def check_workers(store: LightningStoreClient) -> None:
    worker = await store.update_worker("worker-9", {"cpu": 0.5})
    assert (worker.worker_id, worker.heartbeat_stats) == ("worker-9", {"cpu": 0.5})
    assert (await store.update_worker("worker-9")).heartbeat_stats == {"cpu": 0.5}
    assert await store.get_worker_by_id("worker-9") is not None
    listed = await store.query_workers(worker_id_contains="worker-", sort_by="worker_id", sort_order="desc")
    assert listed[0].worker_id == "worker-9"
    assert (await store.query_workers(status_in=[])).total == 0
    busy = await store.query_workers(status_in=["busy"])
    assert {one.worker_id for one in busy} >= {"worker-2"}


async def main(url: str) -> None:
    complaints = Complaints()
    logging.getLogger("agentlightning").addHandler(complaints)
    store = LightningStoreClient(url)
    await check_empty(store)
    await check_resources(store)
    await check_rollouts(store)
    await check_spans(store)
    await check_workers(store)
    await check_refusals(store)
    totals = await store.statistics()
    assert totals["total_rollouts"] == 5
    assert totals["total_spans"] == 3
    await store.close()
    assert not complaints.heard, complaints.heard


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
