from __future__ import annotations

import asyncio
import re

import pytest
from calls import (
    AT_FAILED,
    AT_PREPARING,
    AT_RUNNING,
    AT_SUCCEEDED,
    AT_TIMEOUT,
    AT_UNRESPONSIVE,
    CANCELLED,
    FAILED,
    HERE,
    PREPARING,
    QUEUING,
    RUNNING,
    SUCCEEDED,
    add_spans,
    attempt_of,
    attempts,
    claim,
    config,
    enqueue,
    fail,
    failure,
    get,
    payload,
    queue,
    refused,
    report,
    span,
    start,
    start_attempt,
    status_of,
    update,
)
from google.protobuf.timestamp_pb2 import Timestamp
from stores import FakeClock, OpenStore

from agentlightning.store.api import StoreApi
from agentlightning.store.errors import AlreadyExists, InvalidArgument, NotFound
from lightning_store import v1

AGENT = v1.ATTEMPT_FAILURE_KIND_AGENT_ERROR


async def latest(api: StoreApi, rollout_id: str) -> v1.Attempt:
    return (await api.get_latest_attempt(HERE, v1.GetLatestAttemptRequest(rollout_id=rollout_id))).attempt


class TestReporting:
    @pytest.mark.parametrize(
        ("status", "follows"),
        [
            (AT_PREPARING, PREPARING),
            (AT_RUNNING, RUNNING),
            (AT_SUCCEEDED, SUCCEEDED),
            (AT_FAILED, FAILED),
            (AT_TIMEOUT, FAILED),
            (AT_UNRESPONSIVE, FAILED),
        ],
    )
    async def test_a_status_of_the_latest_attempt_moves_its_rollout(
        self, api: StoreApi, status: v1.AttemptStatus.ValueType, follows: v1.RolloutStatus.ValueType
    ) -> None:
        attempt = await start(api, "r1")
        assert (await report(api, attempt, status)).status == status
        assert await status_of(api, "r1") == follows
        assert (await get(api, "r1")).latest_attempt.status == status

    async def test_only_what_is_final_has_an_end_time(self, api: StoreApi, clock: FakeClock) -> None:
        for number, status in enumerate((AT_SUCCEEDED, AT_FAILED, AT_TIMEOUT, AT_UNRESPONSIVE, AT_RUNNING)):
            attempt = await start(api, f"r{number}")
            clock.advance(1)
            after = await report(api, attempt, status)
            ends = status in (AT_SUCCEEDED, AT_FAILED, AT_TIMEOUT)
            assert after.HasField("end_time") == ends
            assert not ends or after.end_time.ToNanoseconds() == clock.time

    @pytest.mark.parametrize("final", [AT_SUCCEEDED, AT_FAILED, AT_TIMEOUT], ids=v1.AttemptStatus.Name)
    @pytest.mark.parametrize("late", [AT_SUCCEEDED, AT_FAILED, AT_RUNNING], ids=v1.AttemptStatus.Name)
    async def test_a_late_report_is_kept_and_moves_nothing(
        self,
        api: StoreApi,
        clock: FakeClock,
        final: v1.AttemptStatus.ValueType,
        late: v1.AttemptStatus.ValueType,
    ) -> None:
        """Goes wrong when a second report turns a failed rollout into a succeeded one, or reopens a finished one."""
        attempt = await start(api, "r1", config=config(max_attempts=3, retry_on=[AT_FAILED]))
        await update(api, "r1", config=config())
        ended = await report(api, attempt, final)
        rollout = await get(api, "r1")
        clock.advance(5)
        said = failure(AGENT, "too late")
        after = await report(api, attempt, late, failure=said)
        assert (after.status, after.end_time, after.failure) == (final, ended.end_time, ended.failure)
        if late != final:
            assert after.late_report.status == late
            assert after.late_report.failure == said
            assert after.late_report.report_time.ToNanoseconds() == clock.time
        assert await attempt_of(api, attempt) == after
        now = await get(api, "r1")
        assert (now.status, now.end_time) == (rollout.status, rollout.end_time)

    async def test_the_last_late_report_is_kept(self, api: StoreApi) -> None:
        attempt = await start(api, "r1")
        await report(api, attempt, AT_SUCCEEDED)
        await fail(api, attempt)
        assert (await report(api, attempt, AT_RUNNING)).late_report.status == AT_RUNNING

    async def test_of_an_ended_attempt_only_the_notes_may_be_changed(self, api: StoreApi) -> None:
        attempt = await start(api, "r1", worker_id="w1")
        ended = await report(api, attempt, AT_SUCCEEDED)
        after = await report(api, attempt, metadata=payload({"seen": True}), worker_id="w2")
        ended.metadata.CopyFrom(payload({"seen": True}))
        assert after == ended

    async def test_the_same_report_sent_again_changes_nothing(self, api: StoreApi, clock: FakeClock) -> None:
        attempt = await start(api, "r1")
        first = await report(api, attempt, AT_SUCCEEDED)
        clock.advance(1)
        assert await report(api, attempt, AT_SUCCEEDED) == first

    async def test_an_unresponsive_attempt_is_revived_by_a_report(self, api: StoreApi) -> None:
        attempt = await start(api, "r1", config=config(max_attempts=2, retry_on=[AT_UNRESPONSIVE]))
        await report(api, attempt, AT_UNRESPONSIVE)
        assert await queue(api) == ["r1"]
        after = await report(api, attempt, AT_SUCCEEDED)
        assert (after.status, after.HasField("failure")) == (AT_SUCCEEDED, False)
        assert await status_of(api, "r1") == SUCCEEDED
        assert await queue(api) == []

    async def test_a_report_on_an_unresponsive_attempt_of_a_finished_rollout_moves_only_the_attempt(
        self, api: StoreApi
    ) -> None:
        attempt = await start(api, "r1")
        await report(api, attempt, AT_UNRESPONSIVE)
        rollout = await get(api, "r1")
        assert rollout.status == FAILED
        await report(api, attempt)
        assert (await attempt_of(api, attempt)).status == AT_RUNNING
        await report(api, attempt, AT_SUCCEEDED)
        assert (await attempt_of(api, attempt)).status == AT_SUCCEEDED
        now = await get(api, "r1")
        assert (now.status, now.end_time) == (FAILED, rollout.end_time)

    async def test_a_superseded_attempt_moves_only_itself(self, api: StoreApi) -> None:
        first = await start(api, "r1")
        second = await start_attempt(api, "r1")
        await report(api, first, AT_SUCCEEDED)
        assert (await attempt_of(api, first)).status == AT_SUCCEEDED
        assert await status_of(api, "r1") == PREPARING
        await fail(api, second)
        assert await status_of(api, "r1") == FAILED

    async def test_a_report_without_a_status_is_a_sign_of_life(self, api: StoreApi, clock: FakeClock) -> None:
        attempt = await start(api, "r1")
        assert not attempt.HasField("last_heartbeat_time")
        clock.advance(3)
        after = await report(api, attempt)
        assert after.status == AT_PREPARING
        assert after.last_heartbeat_time.ToNanoseconds() == clock.time
        assert await status_of(api, "r1") == PREPARING

    async def test_the_unspecified_status_leaves_the_status_alone(self, api: StoreApi) -> None:
        attempt = await start(api, "r1")
        await report(api, attempt, AT_RUNNING)
        assert (await report(api, attempt, v1.ATTEMPT_STATUS_UNSPECIFIED)).status == AT_RUNNING

    async def test_an_unknown_status_is_refused_and_changes_nothing(self, api: StoreApi) -> None:
        """Goes wrong when an attempt is changed before the report is checked: the bad status sticks."""
        attempt = await start(api, "r1")
        request = v1.UpdateAttemptRequest(
            rollout_id="r1", attempt_id=attempt.attempt_id, metadata=payload({"a": 1}), worker_id="w9"
        )
        request.MergeFrom(v1.UpdateAttemptRequest.FromString(bytes([3 << 3, 42])))
        with refused(InvalidArgument, "INVALID_STATUS"):
            await api.update_attempt(HERE, request)
        assert await attempt_of(api, attempt) == attempt

    async def test_the_shown_heartbeat_may_be_told(self, store: OpenStore, api: StoreApi) -> None:
        """Goes wrong when the clock of a client decides over life and death of an attempt."""
        attempt = await start(api, "r1", config=config(unresponsive=10))
        told = Timestamp(seconds=5_000_000_000, nanos=7)
        assert (await report(api, attempt, last_heartbeat_time=told)).last_heartbeat_time == told
        assert (await report(api, attempt, AT_RUNNING, last_heartbeat_time=told)).last_heartbeat_time == told
        store.pass_time(10.1)
        assert (await attempt_of(api, attempt)).status == AT_UNRESPONSIVE

    @pytest.mark.parametrize(
        "told",
        [Timestamp(seconds=9_223_372_037), Timestamp(seconds=-9_223_372_037), Timestamp(nanos=-1)],
        ids=["too late", "too early", "no time"],
    )
    async def test_a_time_that_cannot_be_kept_is_refused(self, api: StoreApi, told: Timestamp) -> None:
        """Goes wrong when a time is stored that cannot be read back: the attempt can never be listed again."""
        attempt = await start(api, "r1")
        with refused(InvalidArgument, "INVALID_TIME"):
            await report(api, attempt, last_heartbeat_time=told)
        assert await attempts(api, "r1") == [attempt]

    @pytest.mark.parametrize("seconds", [-9_223_372_036, -1, 0, 9_223_372_036])
    async def test_times_long_ago_and_far_ahead_are_kept(self, api: StoreApi, seconds: int) -> None:
        attempt = await start(api, "r1")
        told = Timestamp(seconds=seconds, nanos=1)
        await report(api, attempt, last_heartbeat_time=told)
        assert (await attempt_of(api, attempt)).last_heartbeat_time == told

    async def test_notes_and_worker_are_replaced_or_taken_away(self, api: StoreApi) -> None:
        attempt = await start(api, "r1", worker_id="w1")
        after = await report(api, attempt, metadata=payload({"a": 1}), worker_id="w2")
        assert (after.metadata, after.worker_id) == (payload({"a": 1}), "w2")
        assert (await report(api, attempt, AT_RUNNING)).metadata == payload({"a": 1})
        after = await report(api, attempt, metadata=payload(None), worker_id="")
        assert after.metadata == payload(None)
        assert not after.HasField("worker_id")

    async def test_a_failure_is_kept_and_its_message_cut_at_4_kib(self, api: StoreApi) -> None:
        attempt = await start(api, "r1")
        said = failure(AGENT, "ü" * 5000, retryable=False)
        after = await report(api, attempt, AT_FAILED, failure=said)
        assert after.failure.kind == AGENT
        assert not after.failure.retryable
        assert after.failure.message == "ü" * 2048
        other = await start(api, "r2")
        assert (await fail(api, other, AGENT, message="short")).failure == failure(AGENT, "short")

    async def test_a_success_has_no_failure(self, api: StoreApi) -> None:
        attempt = await start(api, "r1")
        after = await report(api, attempt, AT_SUCCEEDED, failure=failure(AGENT, "no"))
        assert not after.HasField("failure")

    async def test_the_word_latest_stands_for_the_attempt_with_the_highest_number(self, api: StoreApi) -> None:
        await start(api, "r1")
        second = await start_attempt(api, "r1")
        after = await report(api, v1.Attempt(rollout_id="r1", attempt_id="latest"), AT_SUCCEEDED)
        assert after.attempt_id == second.attempt_id
        assert await status_of(api, "r1") == SUCCEEDED

    async def test_what_is_not_there_is_named(self, api: StoreApi) -> None:
        await enqueue(api, "r1")
        with refused(NotFound, "ROLLOUT_NOT_FOUND") as caught:
            await report(api, v1.Attempt(rollout_id="nobody", attempt_id="at-1"), AT_FAILED)
        assert caught.value.message == "Rollout nobody not found"
        with refused(NotFound, "ATTEMPT_NOT_FOUND") as caught:
            await report(api, v1.Attempt(rollout_id="r1", attempt_id="at-1"), AT_FAILED)
        assert caught.value.message == "Attempt at-1 not found for rollout r1"
        assert caught.value.metadata == {"rollout_id": "r1", "attempt_id": "at-1"}
        with refused(NotFound, "NO_ATTEMPTS") as caught:
            await report(api, v1.Attempt(rollout_id="r1", attempt_id="latest"), AT_FAILED)
        assert caught.value.message == "No attempts found for rollout r1"

    async def test_an_attempt_is_known_by_both_its_ids(self, api: StoreApi) -> None:
        """Goes wrong when eight hex digits alone name an attempt: those of two rollouts collide."""
        await enqueue(api, "r1", "r2")
        await start_attempt(api, "r1", "at-same")
        await start_attempt(api, "r2", "at-same")
        await report(api, v1.Attempt(rollout_id="r2", attempt_id="at-same"), AT_SUCCEEDED)
        assert await status_of(api, "r1") == PREPARING
        assert await status_of(api, "r2") == SUCCEEDED


class TestStarting:
    async def test_an_attempt_on_demand_takes_the_rollout_out_of_the_queue(self, api: StoreApi) -> None:
        await enqueue(api, "r1", "r2")
        attempt = await start_attempt(api, "r1", worker_id="w1", lease=5)
        assert re.fullmatch("at-[0-9a-f]{8}", attempt.attempt_id)
        assert (attempt.sequence_id, attempt.status, attempt.worker_id) == (1, AT_PREPARING, "w1")
        assert attempt.lease_remaining.ToSeconds() == 5
        assert await status_of(api, "r1") == PREPARING
        assert await queue(api) == ["r2"]

    @pytest.mark.parametrize("finished", [SUCCEEDED, FAILED, CANCELLED], ids=v1.RolloutStatus.Name)
    async def test_a_finished_rollout_is_reopened(self, api: StoreApi, finished: v1.RolloutStatus.ValueType) -> None:
        """Goes wrong when the end time of the first finish stays."""
        await start(api, "r1")
        await update(api, "r1", status=finished)
        attempt = await start_attempt(api, "r1")
        rollout = await get(api, "r1")
        assert rollout.status == PREPARING
        assert not rollout.HasField("end_time")
        await report(api, attempt, AT_SUCCEEDED)
        rollout = await get(api, "r1")
        assert rollout.status == SUCCEEDED
        assert rollout.HasField("end_time")

    async def test_an_attempt_id_may_be_chosen(self, api: StoreApi) -> None:
        await start(api, "r1")
        assert (await start_attempt(api, "r1", "at-mine")).attempt_id == "at-mine"
        with refused(InvalidArgument, "INVALID_ID"):
            await start_attempt(api, "r1", "latest")
        with refused(InvalidArgument, "INVALID_ID"):
            await start_attempt(api, "r1", "at mine")

    async def test_an_attempt_of_another_worker_is_not_taken_over(self, api: StoreApi) -> None:
        await enqueue(api, "r1")
        await start_attempt(api, "r1", "at-mine", worker_id="w1")
        with refused(AlreadyExists, "ATTEMPT_EXISTS"):
            await start_attempt(api, "r1", "at-mine", worker_id="w2")
        assert [attempt.worker_id for attempt in await attempts(api, "r1")] == ["w1"]

    async def test_an_unknown_rollout_is_not_found(self, api: StoreApi) -> None:
        with refused(NotFound, "ROLLOUT_NOT_FOUND"):
            await start_attempt(api, "nobody")

    async def test_numbers_count_up_without_sharing_however_many_start_at_once(self, api: StoreApi) -> None:
        await enqueue(api, "r1")
        await asyncio.gather(*[start_attempt(api, "r1") for _ in range(20)])
        made = await attempts(api, "r1")
        assert [attempt.sequence_id for attempt in made] == list(range(1, 21))
        assert len({attempt.attempt_id for attempt in made}) == 20
        assert (await latest(api, "r1")).sequence_id == 20


class TestReading:
    async def test_the_latest_attempt_is_the_one_with_the_highest_number(self, api: StoreApi) -> None:
        first = await start(api, "r1")
        assert await latest(api, "r1") == first
        second = await start_attempt(api, "r1")
        await add_spans(api, span(first))
        assert (await latest(api, "r1")).attempt_id == second.attempt_id
        assert (await get(api, "r1")).latest_attempt == second

    async def test_no_latest_attempt_is_said_in_words(self, api: StoreApi) -> None:
        await enqueue(api, "r1")
        with refused(NotFound, "NO_ATTEMPTS"):
            await latest(api, "r1")
        with refused(NotFound, "ROLLOUT_NOT_FOUND"):
            await latest(api, "nobody")

    async def test_an_unknown_rollout_has_no_attempts(self, api: StoreApi) -> None:
        assert await attempts(api, "nobody") == []

    async def test_attempts_are_sorted_as_asked(self, api: StoreApi, clock: FakeClock) -> None:
        await enqueue(api, "r1")
        for name, worker in (("b", "w3"), ("c", "w1"), ("a", "w2")):
            await start_attempt(api, "r1", name, worker_id=worker)
            clock.advance(1)
        await report(api, v1.Attempt(rollout_id="r1", attempt_id="c"), AT_SUCCEEDED)
        clock.advance(1)
        await report(api, v1.Attempt(rollout_id="r1", attempt_id="b"), AT_FAILED)
        expected = {
            "": "bca",
            "sequence_id": "bca",
            "attempt_id": "abc",
            "status": "bac",  # failed, preparing, succeeded
            "start_time": "bca",
            "end_time": "cba",
            "worker_id": "cab",
        }
        for order, names in expected.items():
            for descending in (False, True):
                page = v1.Page(order_by=order, descending=descending)
                found = "".join(attempt.attempt_id for attempt in await attempts(api, "r1", page))
                assert found == (names[::-1] if descending else names), order

    async def test_attempts_are_counted(self, api: StoreApi) -> None:
        await enqueue(api, "r1")
        for _ in range(3):
            await start_attempt(api, "r1")
        request = v1.ListAttemptsRequest(rollout_id="r1", page=v1.Page(page_size=1, with_total_size=True))
        assert (await api.list_attempts(HERE, request)).page_info.total_size == 3


async def test_an_operator_s_word_does_not_touch_the_attempts(api: StoreApi) -> None:
    await enqueue(api, "r1")
    attempt = await claim(api)
    await update(api, "r1", status=QUEUING)
    assert await attempts(api, "r1") == [attempt]
    second = await claim(api)
    assert second.sequence_id == 2
    await report(api, attempt, AT_SUCCEEDED)
    assert await status_of(api, "r1") == PREPARING
