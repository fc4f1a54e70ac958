from __future__ import annotations

import asyncio

import pytest
from calls import (
    AT_SUCCEEDED,
    CANCELLED,
    HERE,
    PREPARING,
    QUEUING,
    SUCCEEDED,
    add_spans,
    attempts,
    claimed_ids,
    config,
    dequeue,
    enqueue,
    finish,
    get,
    named,
    payload,
    prompt,
    publish,
    queue,
    refused,
    release,
    report,
    span,
    spans,
    start,
    start_attempt,
    statistics,
    update,
)
from stores import OpenStore

from agentlightning.store.api import StoreApi
from agentlightning.store.errors import AlreadyExists, InvalidArgument
from lightning_store import v1


class TestRollouts:
    async def test_a_repeated_enqueue_answers_with_the_current_state(self, api: StoreApi) -> None:
        """Goes wrong when a create whose answer was lost is sent again: the rollout is there twice."""
        fields = {"input": payload([1]), "metadata": payload({"a": 1}), "config": config(max_attempts=2)}
        await enqueue(api, "r1", "r2", **fields)
        assert [rollout.status for rollout in await enqueue(api, "r1", "r2", **fields)] == [QUEUING, QUEUING]
        await finish(api, "r1")
        assert [rollout.status for rollout in await enqueue(api, "r1", "r2", **fields)] == [SUCCEEDED, QUEUING]
        assert await queue(api) == ["r2"]
        assert (await statistics(api)).total_rollouts == 2

    async def test_a_repeated_enqueue_is_recognised_after_the_rollout_was_changed(self, api: StoreApi) -> None:
        await publish(api, "rs-1")
        await enqueue(api, "r1", input=payload(1))
        await update(api, "r1", input=payload(2), mode=v1.ROLLOUT_MODE_TEST)
        await publish(api, "rs-2")
        (again,) = await enqueue(api, "r1", input=payload(1))
        assert (again.input, again.resources_id) == (payload(2), "rs-1")

    @pytest.mark.parametrize(
        "other",
        [
            {"input": payload(2)},
            {"input": payload(1), "mode": v1.ROLLOUT_MODE_VAL},
            {"input": payload(1), "config": config(max_attempts=2)},
            {"input": payload(1), "metadata": payload({})},
            {"input": payload(1), "resources_id": "rs-1"},
        ],
        ids=["input", "mode", "config", "metadata", "resources"],
    )
    async def test_a_used_id_with_another_body_is_refused(self, api: StoreApi, other: dict[str, object]) -> None:
        (first,) = await enqueue(api, "r1", input=payload(1))
        with refused(AlreadyExists, "ROLLOUT_EXISTS") as caught:
            await enqueue(api, "r1", **other)
        assert caught.value.metadata == {"rollout_id": "r1"}
        with refused(AlreadyExists, "ROLLOUT_EXISTS"):
            await start(api, "r1", **other)
        assert await get(api, "r1") == first

    async def test_a_batch_with_a_used_id_makes_nothing(self, api: StoreApi) -> None:
        await enqueue(api, "r1", input=payload(1))
        with refused(AlreadyExists, "ROLLOUT_EXISTS"):
            await enqueue(api, "r2", "r1", input=payload(2))
        assert await queue(api) == ["r1"]

    async def test_an_id_twice_in_a_batch_is_one_rollout(self, api: StoreApi) -> None:
        first, second = await enqueue(api, "r1", "r1")
        assert first == second
        assert await queue(api) == ["r1"]

    async def test_a_repeated_start_answers_with_the_current_state(self, api: StoreApi) -> None:
        first = await start(api, "r1", worker_id="w1")
        assert await start(api, "r1", worker_id="w1") == first
        await report(api, first, AT_SUCCEEDED)
        assert (await start(api, "r1", worker_id="w1")).status == AT_SUCCEEDED
        assert len(await attempts(api, "r1")) == 1

    async def test_starting_what_waits_in_the_queue_is_refused(self, api: StoreApi) -> None:
        await enqueue(api, "r1")
        with refused(AlreadyExists, "ROLLOUT_EXISTS"):
            await start(api, "r1")
        assert await queue(api) == ["r1"]

    async def test_enqueuing_what_was_started_is_refused(self, api: StoreApi) -> None:
        await start(api, "r1")
        with refused(AlreadyExists, "ROLLOUT_EXISTS"):
            await enqueue(api, "r1")

    async def test_the_id_of_the_first_attempt_may_be_chosen(self, api: StoreApi) -> None:
        attempt = await start(api, "r1", attempt_id="at-mine")
        assert attempt.attempt_id == "at-mine"
        assert await start(api, "r1", attempt_id="at-mine") == attempt
        with refused(AlreadyExists, "ROLLOUT_EXISTS"):
            await start(api, "r1", attempt_id="at-other")
        with refused(InvalidArgument, "INVALID_ID"):
            await start(api, "r2", attempt_id="latest")

    async def test_a_repeated_start_that_was_superseded_returns_its_own_attempt(self, api: StoreApi) -> None:
        first = await start(api, "r1")
        second = await start_attempt(api, "r1")
        request = v1.StartRolloutRequest(rollout=v1.NewRollout(rollout_id="r1"))
        again = await api.start_rollout(HERE, request)
        assert again.attempt == first
        assert again.rollout.latest_attempt == second

    async def test_a_hundred_repeats_at_once_make_one_rollout(self, api: StoreApi) -> None:
        await asyncio.gather(*[enqueue(api, "r1", input=payload(1)) for _ in range(100)])
        assert await queue(api) == ["r1"]


class TestClaims:
    async def test_a_repeated_claim_returns_what_it_claimed(self, api: StoreApi) -> None:
        """Goes wrong when the answer to a claim is lost: its rollouts stay claimed by nobody for ever."""
        await publish(api, "rs-1")
        await enqueue(api, "r1", "r2", "r3")
        first = await dequeue(api, 2, claim_id="c1", worker_id="w1", with_resources=True)
        again = await dequeue(api, 2, claim_id="c1", worker_id="w1", with_resources=True)
        assert claimed_ids(again) == claimed_ids(first) == ["r1", "r2"]
        assert [entry.attempt.attempt_id for entry in again.claims] == [
            entry.attempt.attempt_id for entry in first.claims
        ]
        assert again.resources == first.resources
        assert claimed_ids(await dequeue(api, 2, claim_id="c2")) == ["r3"]

    async def test_a_repeated_claim_shows_what_became_of_it(self, api: StoreApi) -> None:
        await enqueue(api, "r1", "r2")
        first = await dequeue(api, 2, claim_id="c1")
        await report(api, first.claims[0].attempt, AT_SUCCEEDED)
        newer = await start_attempt(api, "r2")
        again = await dequeue(api, 2, claim_id="c1")
        assert again.claims[0].attempt.status == AT_SUCCEEDED
        assert again.claims[1].attempt.attempt_id == first.claims[1].attempt.attempt_id
        assert again.claims[1].rollout.latest_attempt.attempt_id == newer.attempt_id

    async def test_a_repeated_claim_is_answered_even_while_draining(self, api: StoreApi) -> None:
        await enqueue(api, "r1", "r2")
        await dequeue(api, claim_id="c1", worker_id="w1")
        await api.update_worker(HERE, v1.UpdateWorkerRequest(worker_id="w1", draining=True))
        again = await dequeue(api, claim_id="c1", worker_id="w1")
        assert (claimed_ids(again), again.draining) == (["r1"], False)
        assert (await dequeue(api, claim_id="c2", worker_id="w1")).draining

    async def test_empty_answers_are_not_remembered(self, api: StoreApi) -> None:
        await dequeue(api, claim_id="c1", worker_id="w1")
        await enqueue(api, "r1")
        assert claimed_ids(await dequeue(api, claim_id="c1", worker_id="w1")) == ["r1"]

    async def test_a_claim_that_was_handed_back_claims_anew(self, api: StoreApi) -> None:
        await enqueue(api, "r1")
        first = await dequeue(api, claim_id="c1")
        await release(api, first.claims[0].attempt)
        again = await dequeue(api, claim_id="c1")
        assert claimed_ids(again) == ["r1"]
        assert again.claims[0].attempt.attempt_id != first.claims[0].attempt.attempt_id

    async def test_claims_without_an_id_are_all_new(self, api: StoreApi) -> None:
        await enqueue(api, "r1", "r2")
        assert claimed_ids(await dequeue(api)) == ["r1"]
        assert claimed_ids(await dequeue(api)) == ["r2"]

    async def test_repeats_of_a_claim_at_once_claim_once(self, api: StoreApi) -> None:
        await enqueue(api, "r1", "r2")
        answers = await asyncio.gather(*[dequeue(api, claim_id="c1") for _ in range(20)])
        assert {tuple(claimed_ids(answer)) for answer in answers} == {("r1",)}
        assert await queue(api) == ["r2"]

    async def test_a_claim_id_is_an_id(self, api: StoreApi) -> None:
        with refused(InvalidArgument, "INVALID_ID"):
            await dequeue(api, claim_id="a b")

    async def test_a_held_claim_is_found_by_its_repeat(self, store: OpenStore, api: StoreApi) -> None:
        polls = [asyncio.create_task(dequeue(api, wait=20, claim_id="c1")) for _ in range(2)]
        await store.until_waiting(2)
        await enqueue(api, "r1", "r2")
        answers = await asyncio.wait_for(asyncio.gather(*polls), 25)
        assert [claimed_ids(answer) for answer in answers] == [["r1"], ["r1"]]
        assert await queue(api) == ["r2"]


class TestAttempts:
    async def test_a_repeated_start_of_an_attempt_answers_with_the_current_state(self, api: StoreApi) -> None:
        await enqueue(api, "r1")
        first = await start_attempt(api, "r1", "at-mine", worker_id="w1")
        assert await start_attempt(api, "r1", "at-mine", worker_id="w1") == first
        await report(api, first, AT_SUCCEEDED)
        assert (await start_attempt(api, "r1", "at-mine", worker_id="w1")).status == AT_SUCCEEDED
        assert (await get(api, "r1")).status == SUCCEEDED
        assert len(await attempts(api, "r1")) == 1

    async def test_a_repeated_release_is_harmless(self, api: StoreApi) -> None:
        await enqueue(api, "r1", "r2")
        attempt = (await dequeue(api)).claims[0].attempt
        assert len(await release(api, attempt)) == 1
        assert await release(api, attempt) == []
        assert await queue(api) == ["r1", "r2"]

    async def test_a_release_does_not_take_the_next_claim_away(self, api: StoreApi) -> None:
        await enqueue(api, "r1")
        first = (await dequeue(api)).claims[0].attempt
        await release(api, first)
        await dequeue(api)
        assert await release(api, first) == []
        assert (await get(api, "r1")).status == PREPARING


class TestSpansAndResources:
    async def test_a_repeated_batch_is_stored_once(self, api: StoreApi) -> None:
        attempt = await start(api, "r1")
        batch = [span(attempt) for _ in range(10)]
        first = await add_spans(api, *batch)
        again = await add_spans(api, *batch)
        assert again.sequence_ids == first.sequence_ids
        assert list(again.duplicates) == list(range(10))
        assert len(await spans(api, "r1")) == 10

    async def test_a_repeated_publication_answers_with_the_set(self, api: StoreApi) -> None:
        first = await publish(api, "rs-1", "one")
        await publish(api, "rs-2", "two")
        assert await publish(api, "rs-1", "one") == first
        latest = await api.get_latest_resources(HERE, v1.GetLatestResourcesRequest())
        assert latest.resources.resources_id == "rs-2"

    async def test_a_repeated_update_changes_nothing(self, api: StoreApi) -> None:
        await publish(api, "rs-1", "one")
        request = v1.UpdateResourcesRequest(
            resources_id="rs-1", resources=named(main=prompt("two")), expected_version=1
        )
        first = await api.update_resources(HERE, request)
        assert await api.update_resources(HERE, request) == first
        assert first.resources.version == 2


async def test_a_repeated_deletion_is_harmless(api: StoreApi) -> None:
    await enqueue(api, "r1")
    request = v1.DeleteRolloutsRequest(rollout_id_in=v1.StringSet(values=["r1"]))
    assert list((await api.delete_rollouts(HERE, request)).deleted_rollout_ids) == ["r1"]
    assert not (await api.delete_rollouts(HERE, request)).deleted_rollout_ids


async def test_a_repeated_change_of_a_rollout_is_harmless(api: StoreApi) -> None:
    await enqueue(api, "r1", "r2")
    first = await update(api, "r1", status=CANCELLED)
    assert await update(api, "r1", status=CANCELLED) == first
    await update(api, "r1", status=QUEUING)
    await update(api, "r1", status=QUEUING)
    assert await queue(api) == ["r2", "r1"]
