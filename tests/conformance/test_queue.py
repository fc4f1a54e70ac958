from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from calls import (
    AT_FAILED,
    AT_RUNNING,
    AT_SUCCEEDED,
    CANCELLED,
    FAILED,
    HERE,
    PREPARING,
    QUEUING,
    REQUEUING,
    RUNNING,
    add_spans,
    attempts,
    beat,
    claim,
    claimed_ids,
    config,
    delete,
    dequeue,
    enqueue,
    fail,
    get,
    key_of,
    list_spans,
    payload,
    prompt,
    publish,
    queue,
    refused,
    release,
    report,
    seconds,
    span,
    spans,
    start,
    start_attempt,
    statistics,
    status_of,
    update,
)
from stores import FakeClock, OpenStore, Variant

from agentlightning.store.api import CallContext, StoreApi
from agentlightning.store.errors import InvalidArgument, NotFound, Unavailable
from lightning_store import v1


class TestClaiming:
    async def test_the_queue_is_first_in_first_out(self, api: StoreApi) -> None:
        await enqueue(api, "b", "a")
        await enqueue(api, "c")
        assert [(await claim(api)).rollout_id for _ in range(3)] == ["b", "a", "c"]
        assert claimed_ids(await dequeue(api)) == []

    async def test_a_claim_makes_an_attempt(self, api: StoreApi, clock: FakeClock) -> None:
        await enqueue(api, "r1")
        clock.advance(5)
        (claimed,) = (await dequeue(api, worker_id="w1")).claims
        assert claimed.rollout.status == PREPARING
        assert claimed.rollout.latest_attempt == claimed.attempt
        assert claimed.attempt.status == v1.ATTEMPT_STATUS_PREPARING
        assert claimed.attempt.sequence_id == 1
        assert claimed.attempt.worker_id == "w1"
        assert claimed.attempt.start_time.ToNanoseconds() == clock.time
        assert await get(api, "r1") == claimed.rollout
        assert await attempts(api, "r1") == [claimed.attempt]

    async def test_a_claim_takes_no_more_than_its_limit(self, api: StoreApi) -> None:
        await enqueue(api, "r1", "r2", "r3")
        assert claimed_ids(await dequeue(api, 0)) == []
        assert claimed_ids(await dequeue(api, -1)) == []
        assert claimed_ids(await dequeue(api, 2)) == ["r1", "r2"]
        assert claimed_ids(await dequeue(api, 2)) == ["r3"]

    async def test_a_claim_is_bounded_by_bytes(self, api: StoreApi) -> None:
        """Goes wrong when an answer of many large inputs is larger than any message may be."""
        for number in range(5):
            await enqueue(api, f"r{number}", input=payload("x" * 1_000_000))
        first = claimed_ids(await dequeue(api, 5))
        assert 1 <= len(first) < 5
        assert len(first) + len(claimed_ids(await dequeue(api, 5))) == 5

    async def test_a_retry_goes_to_the_tail(self, api: StoreApi) -> None:
        await enqueue(api, "r1", "r2", config=config(max_attempts=2, retry_on=[AT_FAILED]))
        await fail(api, await claim(api))
        assert await status_of(api, "r1") == REQUEUING
        assert await queue(api) == ["r2", "r1"]
        assert (await claim(api)).sequence_id == 1
        assert (await claim(api)).sequence_id == 2

    async def test_fifty_callers_at_once_never_share_a_rollout(self, api: StoreApi) -> None:
        """Goes wrong when the queue is popped and the attempt is made in two steps."""
        names = [f"r{number}" for number in range(60)]
        await enqueue(api, *names)
        answers = await asyncio.gather(*[dequeue(api, 2, worker_id=f"w{number}") for number in range(50)])
        taken = Counter(name for answer in answers for name in claimed_ids(answer))
        assert taken == Counter(names)
        assert {len(await attempts(api, name)) for name in names[:5]} == {1}
        assert (await statistics(api)).total_attempts == 60

    async def test_what_left_the_queue_is_not_claimed(self, api: StoreApi) -> None:
        await enqueue(api, "started", "cancelled", "deleted", "running", "left")
        await start_attempt(api, "started")
        await update(api, "cancelled", status=CANCELLED)
        await delete(api, "deleted")
        await update(api, "running", status=RUNNING)
        assert claimed_ids(await dequeue(api, 10)) == ["left"]

    @pytest.mark.parametrize("status", [v1.ATTEMPT_STATUS_PREPARING, AT_RUNNING], ids=v1.AttemptStatus.Name)
    async def test_a_span_takes_its_rollout_out_of_the_queue(
        self, api: StoreApi, status: v1.AttemptStatus.ValueType
    ) -> None:
        """Goes wrong when a span leaves the rollout queued: it is handed out while it runs."""
        attempt = await start(api, "r1")
        await report(api, attempt, status)
        await update(api, "r1", status=QUEUING)
        await add_spans(api, span(attempt))
        assert await status_of(api, "r1") == RUNNING
        assert claimed_ids(await dequeue(api)) == []

    async def test_a_late_span_of_a_failed_attempt_leaves_the_retry_in_the_queue(self, api: StoreApi) -> None:
        """Goes wrong when a late span flips the requeued rollout to running: its entry is then skipped for ever."""
        await enqueue(api, "r1", config=config(max_attempts=2, retry_on=[AT_FAILED]))
        first = await claim(api)
        await fail(api, first)
        await add_spans(api, span(first, "late"))
        assert await status_of(api, "r1") == REQUEUING
        second = await claim(api)
        assert (second.rollout_id, second.sequence_id) == ("r1", 2)
        await report(api, second, AT_SUCCEEDED)
        assert await status_of(api, "r1") == v1.ROLLOUT_STATUS_SUCCEEDED

    async def test_an_unknown_experiment_is_not_an_empty_queue(self, api: StoreApi) -> None:
        with refused(NotFound, "EXPERIMENT_NOT_FOUND"):
            await dequeue(api, experiment="typo")


class TestResources:
    async def test_a_claim_brings_the_resources_that_it_needs_once(self, api: StoreApi) -> None:
        await publish(api, "rs-1", "one")
        await enqueue(api, "a", "b")
        await enqueue(api, "c", resources_id="rs-missing")
        response = await dequeue(api, 10, with_resources=True)
        assert claimed_ids(response) == ["a", "b", "c"]
        assert [(found.resources_id, found.version) for found in response.resources] == [("rs-1", 1)]
        assert response.resources[0].resources[0].resource == prompt("one")

    async def test_a_claim_without_named_resources_brings_the_latest(self, api: StoreApi) -> None:
        await enqueue(api, "r1")
        await publish(api, "rs-1")
        await publish(api, "rs-2")
        response = await dequeue(api, with_resources=True)
        assert [found.resources_id for found in response.resources] == ["rs-2"]

    async def test_known_resources_are_not_sent_again(self, api: StoreApi) -> None:
        await publish(api, "rs-1")
        await enqueue(api, "a", "b", "c")
        known = [v1.ResourcesVersion(resources_id="rs-1", version=1)]
        assert not (await dequeue(api, with_resources=True, known_resources=known)).resources
        await api.update_resources(HERE, v1.UpdateResourcesRequest(resources_id="rs-1"))
        (newer,) = (await dequeue(api, with_resources=True, known_resources=known)).resources
        assert newer.version == 2

    async def test_resources_come_only_when_asked_for(self, api: StoreApi) -> None:
        await publish(api, "rs-1")
        await enqueue(api, "r1")
        assert not (await dequeue(api)).resources


class TestReleasing:
    async def test_a_released_claim_is_as_if_it_had_never_been(self, api: StoreApi) -> None:
        await enqueue(api, "r1", "r2", "r3")
        claims = (await dequeue(api, 2, worker_id="w1")).claims
        released = await release(api, *[claimed.attempt for claimed in claims])
        assert [key.rollout_id for key in released] == ["r1", "r2"]
        assert await queue(api) == ["r1", "r2", "r3"]
        rollout = await get(api, "r1")
        assert rollout.status == QUEUING
        assert not rollout.HasField("latest_attempt")
        assert await attempts(api, "r1") == []
        assert (await claim(api)).sequence_id == 1
        assert (await statistics(api)).total_attempts == 1

    async def test_a_released_retry_waits_for_its_retry_again(self, api: StoreApi) -> None:
        await enqueue(api, "r1", "r2", config=config(max_attempts=2, retry_on=[AT_FAILED]))
        first = await claim(api)
        await fail(api, first)
        claims = (await dequeue(api, 2)).claims
        assert [claimed.rollout.rollout_id for claimed in claims] == ["r2", "r1"]
        await release(api, claims[0].attempt, claims[1].attempt)
        rollout = await get(api, "r1")
        assert rollout.status == REQUEUING
        assert key_of(rollout.latest_attempt) == key_of(first)
        assert await queue(api) == ["r2", "r1"]

    async def test_only_attempts_that_have_not_begun_are_taken_back(self, api: StoreApi) -> None:
        await enqueue(api, "begun", "spans", "ended", "kept")
        begun, traced, ended, kept = [entry.attempt for entry in (await dequeue(api, 4)).claims]
        await report(api, begun, AT_RUNNING)
        await add_spans(api, span(traced))
        await report(api, ended, AT_SUCCEEDED)
        unknown = v1.Attempt(rollout_id="nobody", attempt_id="at-1")
        foreign = v1.Attempt(rollout_id="kept", attempt_id=begun.attempt_id)
        assert await release(api, begun, traced, ended, unknown, foreign, kept) == [key_of(kept)]
        assert await queue(api) == ["kept"]
        assert await status_of(api, "begun") == RUNNING

    async def test_an_attempt_with_spans_is_not_taken_back_even_when_it_says_that_it_prepares(
        self, api: StoreApi
    ) -> None:
        """Goes wrong when an attempt is removed and its spans are left behind without one."""
        attempt = await start(api, "r1")
        await add_spans(api, span(attempt, "kept"))
        await report(api, attempt, v1.ATTEMPT_STATUS_PREPARING)
        assert await release(api, attempt) == []
        assert [one.attempt_id for one in await spans(api, "r1")] == [attempt.attempt_id]

    async def test_a_superseded_attempt_is_taken_back_without_touching_the_rollout(self, api: StoreApi) -> None:
        first = await start(api, "r1")
        second = await start_attempt(api, "r1")
        assert await release(api, first) == [key_of(first)]
        assert await status_of(api, "r1") == PREPARING
        assert await attempts(api, "r1") == [second]
        assert await queue(api) == []

    async def test_a_finished_rollout_whose_new_attempt_is_handed_back_is_finished_as_before(
        self, api: StoreApi, clock: FakeClock
    ) -> None:
        attempt = await start(api, "r1")
        await report(api, attempt, AT_SUCCEEDED)
        before = await get(api, "r1")
        clock.advance(5)
        await release(api, await start_attempt(api, "r1"))
        assert await get(api, "r1") == before
        assert await queue(api) == []

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["first first", "second first"])
    async def test_a_rollout_whose_attempts_are_all_handed_back_is_queued(
        self, api: StoreApi, order: tuple[int, int]
    ) -> None:
        """Goes wrong when it is put back to what it was under an attempt that is gone: nobody ever moves it."""
        both = [await start(api, "r1"), await start_attempt(api, "r1")]
        for position in order:
            await release(api, both[position])
        assert await attempts(api, "r1") == []
        assert await queue(api) == ["r1"]

    @pytest.mark.parametrize("most", [1, 9])
    async def test_a_failure_that_came_meanwhile_counts_once_the_newer_attempt_is_handed_back(
        self, api: StoreApi, most: int
    ) -> None:
        """Goes wrong when the rollout is put back to running although its attempt has failed: nothing ever ends it."""
        first = await start(api, "r1", config=config(max_attempts=most, retry_on=[AT_FAILED]))
        second = await start_attempt(api, "r1")
        await fail(api, first)
        assert await status_of(api, "r1") == PREPARING
        await release(api, second)
        assert await status_of(api, "r1") == (REQUEUING if most > 1 else FAILED)
        assert await queue(api) == (["r1"] if most > 1 else [])

    async def test_what_was_called_off_is_not_queued_by_a_release(self, api: StoreApi) -> None:
        attempt = await start(api, "r1")
        await update(api, "r1", status=CANCELLED)
        assert await release(api, attempt) == [key_of(attempt)]
        assert await status_of(api, "r1") == CANCELLED
        assert await queue(api) == []

    async def test_a_thousand_attempts_fit_in_one_call_and_no_more(self, api: StoreApi) -> None:
        keys = [v1.Attempt(rollout_id=f"r{number}", attempt_id="at-1") for number in range(1001)]
        assert await release(api, *keys[:1000]) == []
        with refused(InvalidArgument, "TOO_MANY_IDS"):
            await release(api, *keys)


class TestLongPolls:
    async def test_a_held_call_answers_as_soon_as_there_is_work(self, store: OpenStore, api: StoreApi) -> None:
        polling = asyncio.create_task(dequeue(api, wait=30, worker_id="w1"))
        await store.until_waiting()
        await enqueue(api, "r1")
        assert claimed_ids(await asyncio.wait_for(polling, 25)) == ["r1"]

    async def test_work_that_is_there_is_answered_at_once(self, api: StoreApi) -> None:
        await enqueue(api, "r1")
        assert claimed_ids(await asyncio.wait_for(dequeue(api, 5, wait=30), 25)) == ["r1"]

    async def test_a_held_call_answers_empty_when_its_time_is_up(self, api: StoreApi) -> None:
        before = asyncio.get_running_loop().time()
        assert claimed_ids(await dequeue(api, wait=0.15)) == []
        assert 0.14 <= asyncio.get_running_loop().time() - before < 20

    async def test_a_call_without_a_wait_answers_at_once(self, api: StoreApi) -> None:
        for wait in (None, 0, -5):
            assert claimed_ids(await asyncio.wait_for(dequeue(api, wait=wait), 25)) == []

    async def test_a_call_that_wants_nothing_is_not_held(self, api: StoreApi) -> None:
        assert claimed_ids(await asyncio.wait_for(dequeue(api, 0, wait=30), 25)) == []

    async def test_every_way_into_the_queue_wakes_a_held_call(self, store: OpenStore, api: StoreApi) -> None:
        attempt = await start(api, "failing", config=config(max_attempts=3, retry_on=[AT_FAILED]))
        await start(api, "operator")
        released = await start(api, "released")
        await start(api, "silent", lease=5)
        for happening, expected in (
            (lambda: fail(api, attempt), "failing"),
            (lambda: update(api, "operator", status=QUEUING), "operator"),
            (lambda: release(api, released), "released"),
            (lambda: asyncio.to_thread(store.pass_time, 6), "silent"),
        ):
            polling = asyncio.create_task(dequeue(api, wait=30))
            await store.until_waiting()
            await happening()
            assert claimed_ids(await asyncio.wait_for(polling, 25)) == [expected]

    async def test_those_who_wait_longest_are_served_first(self, store: OpenStore, api: StoreApi) -> None:
        polls = []
        for number in range(4):
            polls.append(asyncio.create_task(dequeue(api, wait=30, worker_id=f"w{number}")))
            await store.until_asleep(number + 1)
        for number in range(4):
            await enqueue(api, f"r{number}")
            assert claimed_ids(await asyncio.wait_for(polls[number], 25)) == [f"r{number}"]

    async def test_many_rollouts_at_once_wake_as_many_callers(self, store: OpenStore, api: StoreApi) -> None:
        polls = [asyncio.create_task(dequeue(api, wait=30)) for _ in range(8)]
        await store.until_waiting(8)
        await enqueue(api, *[f"r{number}" for number in range(8)])
        answers = await asyncio.wait_for(asyncio.gather(*polls), 25)
        assert sorted(name for answer in answers for name in claimed_ids(answer)) == [f"r{n}" for n in range(8)]

    async def test_a_cancelled_call_claims_nothing(self, store: OpenStore, api: StoreApi) -> None:
        """Goes wrong when work is handed to a caller that has gone: the rollout is lost until its limits end it."""
        polling = asyncio.create_task(dequeue(api, wait=30, worker_id="w1"))
        await store.until_waiting()
        polling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await polling
        await store.until_waiting(0)
        await enqueue(api, "r1")
        assert await status_of(api, "r1") == QUEUING
        assert (await claim(api)).sequence_id == 1

    async def test_a_caller_that_is_gone_claims_nothing(self, api: StoreApi, store: OpenStore) -> None:
        await enqueue(api, "r1")
        gone = CallContext(is_present=lambda: False)
        response = await store.engine.dequeue_rollouts(gone, v1.DequeueRolloutsRequest(limit=1, worker_id="w1"))
        assert claimed_ids(response) == []
        assert await queue(api) == ["r1"]

    async def test_nothing_is_lost_when_callers_leave_while_work_comes(self, store: OpenStore, api: StoreApi) -> None:
        """Goes wrong when a claim stays with a caller that left: here it is found again by its claim id."""
        for turn in range(10):
            polling = asyncio.create_task(dequeue(api, wait=30, claim_id=f"c{turn}"))
            await store.until_waiting()
            await enqueue(api, f"r{turn}")
            for _ in range(turn):
                await asyncio.sleep(0)
            was_cancelled = polling.cancel()
            (outcome,) = await asyncio.gather(polling, return_exceptions=True)
            assert isinstance(outcome, asyncio.CancelledError) == was_cancelled
            await store.until_waiting(0)
            again = await asyncio.wait_for(dequeue(api, wait=2, claim_id=f"c{turn}"), 25)
            assert claimed_ids(again) == [f"r{turn}"]

    async def test_work_of_another_experiment_wakes_nobody(self, store: OpenStore, api: StoreApi) -> None:
        await enqueue(api, "elsewhere", experiment="other")
        polling = asyncio.create_task(dequeue(api, wait=0.2))
        await store.until_waiting()
        await enqueue(api, "more", experiment="other")
        assert claimed_ids(await polling) == []

    async def test_a_held_call_ends_when_its_experiment_is_deleted(self, store: OpenStore, api: StoreApi) -> None:
        """Goes wrong when a held call goes on listening to the queue of an experiment that is gone."""
        await enqueue(api, "r1", experiment="gone")
        await dequeue(api, experiment="gone")
        polling = asyncio.create_task(dequeue(api, wait=30, experiment="gone"))
        await store.until_waiting()
        await api.delete_experiment(HERE, v1.DeleteExperimentRequest(name="gone"))
        await enqueue(api, "r2", experiment="gone")
        with refused(NotFound, "EXPERIMENT_NOT_FOUND"):
            await asyncio.wait_for(polling, 25)
        assert await queue(api, experiment="gone") == ["r2"]


class TestDraining:
    async def test_a_draining_worker_gets_nothing(self, api: StoreApi) -> None:
        await enqueue(api, "r1")
        await beat(api, "w1", draining=True)
        response = await asyncio.wait_for(dequeue(api, wait=30, worker_id="w1"), 25)
        assert response.draining
        assert claimed_ids(response) == []
        assert claimed_ids(await dequeue(api, worker_id="w2")) == ["r1"]

    async def test_a_held_call_hears_at_once_that_its_worker_is_to_drain(self, store: OpenStore, api: StoreApi) -> None:
        other = asyncio.create_task(dequeue(api, wait=30, worker_id="w2"))
        await store.until_waiting()
        polling = asyncio.create_task(dequeue(api, wait=30, worker_id="w1"))
        await store.until_waiting(2)
        await beat(api, "w1", draining=True)
        assert (await asyncio.wait_for(polling, 25)).draining
        await enqueue(api, "r1")
        assert claimed_ids(await asyncio.wait_for(other, 25)) == ["r1"]

    async def test_a_worker_may_work_again(self, api: StoreApi) -> None:
        await enqueue(api, "r1")
        await beat(api, "w1", draining=True)
        await beat(api, "w1")
        assert (await dequeue(api, worker_id="w1")).draining
        await beat(api, "w1", draining=False)
        assert claimed_ids(await dequeue(api, worker_id="w1")) == ["r1"]


async def test_held_calls_are_held_by_real_time_whatever_the_store_does(living: OpenStore) -> None:
    polls = [asyncio.create_task(dequeue(living.api, wait=0.1 * number)) for number in range(1, 4)]
    assert [claimed_ids(answer) for answer in await asyncio.wait_for(asyncio.gather(*polls), 25)] == [[], [], []]


async def test_a_closing_store_ends_held_calls(variant: Variant) -> None:
    async with variant.open() as opened:
        request = v1.DequeueRolloutsRequest(limit=1, wait=seconds(30))
        polling = asyncio.create_task(opened.engine.dequeue_rollouts(HERE, request))
        await opened.until_waiting()
        opened.engine.drain()
        with refused(Unavailable, "SHUTTING_DOWN") as caught:
            await asyncio.wait_for(polling, 25)
        assert caught.value.retry_after is not None
        assert not (await list_spans(opened.api, "r1")).resource_spans
