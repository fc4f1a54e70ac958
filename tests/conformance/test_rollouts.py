from __future__ import annotations

import asyncio
import re

import pytest
from calls import (
    AT_FAILED,
    AT_SUCCEEDED,
    CANCELLED,
    FAILED,
    HERE,
    PREPARING,
    QUEUING,
    REQUEUING,
    RUNNING,
    SUCCEEDED,
    add_spans,
    attempts,
    claim,
    config,
    enqueue,
    fail,
    finish,
    get,
    ids,
    key_of,
    list_rollouts,
    payload,
    publish,
    queue,
    refused,
    report,
    span,
    start,
    status_of,
    update,
)
from stores import SECOND, FakeClock, OpenStore

from agentlightning.store.api import StoreApi
from agentlightning.store.errors import InvalidArgument, NotFound
from lightning_store import v1

EVERY_STATUS = [QUEUING, PREPARING, RUNNING, FAILED, SUCCEEDED, CANCELLED, REQUEUING]


async def test_an_enqueued_rollout_waits_in_the_queue_without_an_attempt(api: StoreApi, clock: FakeClock) -> None:
    (rollout,) = await enqueue(api, "r1", mode=v1.ROLLOUT_MODE_VAL)
    assert rollout.status == QUEUING
    assert rollout.mode == v1.ROLLOUT_MODE_VAL
    assert rollout.start_time.ToNanoseconds() == clock.time
    assert not rollout.HasField("end_time")
    assert not rollout.HasField("latest_attempt")
    assert await get(api, "r1") == rollout
    assert await attempts(api, "r1") == []


async def test_what_the_user_gave_comes_back_byte_for_byte(api: StoreApi) -> None:
    limits = config(timeout=1.5, max_attempts=3, retry_on=[AT_FAILED])
    given = v1.Payload(content_type="application/json", data=b'{"big": 123456789012345678901234567890}')
    notes = v1.Payload(content_type="application/x-own", data=bytes(range(256)))
    await enqueue(api, "r1", input=given, metadata=notes, config=limits)
    rollout = await get(api, "r1")
    assert (rollout.input, rollout.metadata, rollout.config) == (given, notes, limits)


async def test_an_unset_input_is_null_and_unset_metadata_stays_unset(api: StoreApi) -> None:
    await enqueue(api, "r1")
    rollout = await get(api, "r1")
    assert rollout.input == payload(None)
    assert not rollout.HasField("metadata")


async def test_the_server_chooses_an_id_when_none_is_given(api: StoreApi) -> None:
    first, second = await enqueue(api, "", "")
    assert re.fullmatch("ro-[0-9a-f]{12}", first.rollout_id)
    assert first.rollout_id != second.rollout_id


async def test_rollouts_are_enqueued_in_the_order_given(api: StoreApi) -> None:
    assert [rollout.rollout_id for rollout in await enqueue(api, "r2", "r1", "r3")] == ["r2", "r1", "r3"]
    assert await queue(api) == ["r2", "r1", "r3"]


async def test_enqueuing_makes_all_rollouts_or_none(api: StoreApi) -> None:
    await enqueue(api, "taken")
    request = v1.EnqueueRolloutsRequest(
        rollouts=[v1.NewRollout(rollout_id="r1"), v1.NewRollout(rollout_id="r2", config=config(max_attempts=-1))]
    )
    with refused(InvalidArgument, "INVALID_CONFIG"):
        await api.enqueue_rollouts(HERE, request)
    assert await ids(api) == ["taken"]


async def test_a_thousand_rollouts_fit_in_one_call_and_no_more(api: StoreApi) -> None:
    with refused(InvalidArgument, "TOO_MANY_IDS"):
        await enqueue(api, *[f"r{number}" for number in range(1001)])
    assert await ids(api) == []
    assert len(await enqueue(api, *[f"r{number}" for number in range(1000)])) == 1000


async def test_a_rollout_takes_the_resources_that_are_the_latest_when_it_is_made(api: StoreApi) -> None:
    (before,) = await enqueue(api, "before")
    await publish(api, "rs-1")
    (between,) = await enqueue(api, "between")
    await publish(api, "rs-2")
    assert not before.HasField("resources_id")
    assert between.resources_id == "rs-1"
    assert (await get(api, "before")).HasField("resources_id") is False
    assert (await get(api, "between")).resources_id == "rs-1"


async def test_named_resources_need_not_exist(api: StoreApi) -> None:
    await publish(api, "rs-1")
    (rollout,) = await enqueue(api, "r1", resources_id="rs-not-yet")
    assert rollout.resources_id == "rs-not-yet"


async def test_a_started_rollout_has_its_attempt_at_once_and_is_never_queued(api: StoreApi, clock: FakeClock) -> None:
    attempt = await start(api, "r1", worker_id="w1", input=payload([1]))
    assert (attempt.sequence_id, attempt.status, attempt.worker_id) == (1, v1.ATTEMPT_STATUS_PREPARING, "w1")
    assert attempt.start_time.ToNanoseconds() == clock.time
    rollout = await get(api, "r1")
    assert rollout.status == PREPARING
    assert rollout.latest_attempt == attempt
    assert await queue(api) == []


async def test_the_latest_attempt_decides_the_status_of_its_rollout(api: StoreApi) -> None:
    attempt = await start(api, "r1")
    await add_spans(api, span(attempt))
    assert await status_of(api, "r1") == RUNNING
    await report(api, attempt, AT_SUCCEEDED)
    assert await status_of(api, "r1") == SUCCEEDED


async def test_a_finished_rollout_has_an_end_time(store: OpenStore, api: StoreApi, clock: FakeClock) -> None:
    attempt = await start(api, "r1")
    clock.advance(2.5)
    await report(api, attempt, AT_FAILED)
    rollout = await get(api, "r1")
    assert rollout.status == FAILED
    assert rollout.end_time.ToNanoseconds() - rollout.start_time.ToNanoseconds() == 2.5 * SECOND


async def test_an_unknown_rollout_is_not_found_and_named(api: StoreApi) -> None:
    with refused(NotFound, "ROLLOUT_NOT_FOUND") as caught:
        await get(api, "r1")
    assert caught.value.message == "Rollout r1 not found"
    assert caught.value.metadata == {"rollout_id": "r1"}
    with refused(NotFound, "ROLLOUT_NOT_FOUND"):
        await update(api, "r1", status=CANCELLED)


async def test_an_answer_is_a_snapshot_that_later_changes_leave_alone(api: StoreApi) -> None:
    """Goes wrong when a store hands out its own objects: callers change the store, snapshots change alone."""
    request = v1.EnqueueRolloutsRequest(rollouts=[v1.NewRollout(rollout_id="r1", input=payload("asked"))])
    (rollout,) = (await api.enqueue_rollouts(HERE, request)).rollouts
    request.rollouts[0].input.data = b"other"
    rollout.input.data = b"changed by the caller"
    rollout.status = CANCELLED
    assert (await get(api, "r1")).input == payload("asked")
    snapshot = await get(api, "r1")
    await update(api, "r1", status=FAILED, input=payload("new"))
    assert (snapshot.status, snapshot.input) == (QUEUING, payload("asked"))


class TestUpdating:
    async def test_what_is_unset_stays_as_it_is(self, api: StoreApi) -> None:
        await publish(api, "rs-1")
        (before,) = await enqueue(
            api,
            "r1",
            input=payload(1),
            metadata=payload({"a": 1}),
            mode=v1.ROLLOUT_MODE_TRAIN,
            config=config(max_attempts=2),
        )
        assert await update(api, "r1") == before
        assert await get(api, "r1") == before

    async def test_each_field_is_replaced_as_a_whole(self, api: StoreApi) -> None:
        await enqueue(api, "r1", metadata=payload({"a": 1}), config=config(max_attempts=2, retry_on=[AT_FAILED]))
        rollout = await update(
            api,
            "r1",
            input=payload(2),
            metadata=payload({"b": 2}),
            mode=v1.ROLLOUT_MODE_TEST,
            resources_id="rs-9",
            config=config(timeout=3),
        )
        assert rollout.input == payload(2)
        assert rollout.metadata == payload({"b": 2})
        assert rollout.mode == v1.ROLLOUT_MODE_TEST
        assert rollout.resources_id == "rs-9"
        assert rollout.config == config(timeout=3)
        assert await get(api, "r1") == rollout

    async def test_fields_can_be_taken_away(self, api: StoreApi) -> None:
        """Goes wrong when null and unset are mixed up on the wire: then metadata can never be taken away remotely."""
        await enqueue(api, "r1", metadata=payload({"a": 1}), mode=v1.ROLLOUT_MODE_VAL, resources_id="rs-1")
        rollout = await update(
            api, "r1", metadata=payload(None), mode=v1.ROLLOUT_MODE_UNSPECIFIED, resources_id="", config=config()
        )
        assert rollout.metadata == payload(None)
        assert rollout.mode == v1.ROLLOUT_MODE_UNSPECIFIED
        assert not rollout.HasField("resources_id")

    @pytest.mark.parametrize("origin", [QUEUING, RUNNING, SUCCEEDED], ids=v1.RolloutStatus.Name)
    async def test_the_operator_may_set_any_status(
        self, api: StoreApi, clock: FakeClock, origin: v1.RolloutStatus.ValueType
    ) -> None:
        for target in EVERY_STATUS:
            name = v1.RolloutStatus.Name(target)
            await enqueue(api, name)
            before = await update(api, name, status=origin)
            clock.advance(1)
            rollout = await update(api, name, status=target)
            assert rollout.status == target
            assert (name in await queue(api)) == (target in (QUEUING, REQUEUING))
            if target in (FAILED, SUCCEEDED, CANCELLED):
                end_time = before.end_time.ToNanoseconds() if target == origin else clock.time
                assert rollout.end_time.ToNanoseconds() == end_time
            else:
                assert not rollout.HasField("end_time")

    async def test_reopening_a_finished_rollout_clears_its_end_time(self, api: StoreApi) -> None:
        """Goes wrong when a rollout that runs again keeps the end time of its first finish."""
        await enqueue(api, "r1")
        await update(api, "r1", status=SUCCEEDED)
        assert not (await update(api, "r1", status=RUNNING)).HasField("end_time")

    async def test_a_rollout_that_is_set_to_queuing_goes_to_the_tail_once(self, api: StoreApi) -> None:
        await enqueue(api, "r1", "r2", "r3")
        await claim(api)
        await update(api, "r1", status=QUEUING)
        await update(api, "r2", status=REQUEUING)
        assert await queue(api) == ["r2", "r3", "r1"]

    async def test_the_unspecified_status_leaves_the_status_alone(self, api: StoreApi) -> None:
        await enqueue(api, "r1")
        assert (await update(api, "r1", status=v1.ROLLOUT_STATUS_UNSPECIFIED)).status == QUEUING

    async def test_an_unknown_status_is_refused_and_changes_nothing(self, api: StoreApi) -> None:
        """Goes wrong when a bad status is found only after part of the change has been written."""
        (before,) = await enqueue(api, "r1", metadata=payload({"a": 1}))
        request = v1.UpdateRolloutRequest(rollout_id="r1", metadata=payload({"b": 2}))
        request.MergeFrom(v1.UpdateRolloutRequest.FromString(bytes([5 << 3, 99])))
        with refused(InvalidArgument, "INVALID_STATUS"):
            await api.update_rollout(HERE, request)
        assert await get(api, "r1") == before

    async def test_a_bad_config_is_refused_and_changes_nothing(self, api: StoreApi) -> None:
        (before,) = await enqueue(api, "r1")
        with refused(InvalidArgument, "INVALID_CONFIG"):
            await update(api, "r1", status=CANCELLED, input=payload(2), config=config(timeout=0))
        assert await get(api, "r1") == before

    async def test_concurrent_changes_of_different_fields_all_stay(self, api: StoreApi) -> None:
        await enqueue(api, "r1")
        await asyncio.gather(
            update(api, "r1", input=payload("new")),
            update(api, "r1", metadata=payload({"a": 1})),
            update(api, "r1", mode=v1.ROLLOUT_MODE_TRAIN),
            update(api, "r1", resources_id="rs-1"),
        )
        rollout = await get(api, "r1")
        assert rollout.input == payload("new")
        assert rollout.metadata == payload({"a": 1})
        assert (rollout.mode, rollout.resources_id) == (v1.ROLLOUT_MODE_TRAIN, "rs-1")


class TestListing:
    async def test_rollouts_come_with_their_latest_attempt(self, api: StoreApi) -> None:
        attempt = await start(api, "r1", worker_id="w1")
        await enqueue(api, "r2")
        first, second = (await list_rollouts(api)).rollouts
        assert key_of(first.latest_attempt) == key_of(attempt)
        assert not second.HasField("latest_attempt")

    async def test_an_unset_filter_matches_everything_and_an_empty_set_nothing(self, api: StoreApi) -> None:
        """Goes wrong when a list of no ids is taken for a list that was not given."""
        await enqueue(api, "r1", "r2")
        assert await ids(api) == ["r1", "r2"]
        assert await ids(api, status_in=v1.RolloutStatusSet()) == []
        assert await ids(api, rollout_id_in=v1.StringSet()) == []
        assert await ids(api, mode_in=v1.RolloutModeSet()) == []

    async def test_a_filter_without_conditions_matches_everything_whatever_its_logic(self, api: StoreApi) -> None:
        """Goes wrong when "any of no conditions" is taken to match nothing."""
        await enqueue(api, "r1", "r2")
        for logic in (v1.FILTER_LOGIC_UNSPECIFIED, v1.FILTER_LOGIC_AND, v1.FILTER_LOGIC_OR):
            assert await ids(api, logic=logic) == ["r1", "r2"]

    async def test_conditions_combine_as_asked(self, api: StoreApi) -> None:
        await enqueue(api, "train-1", "train-2", mode=v1.ROLLOUT_MODE_TRAIN)
        await enqueue(api, "val-1", mode=v1.ROLLOUT_MODE_VAL)
        await update(api, "train-1", status=SUCCEEDED)
        wanted = {
            "status_in": v1.RolloutStatusSet(values=[SUCCEEDED]),
            "mode_in": v1.RolloutModeSet(values=[v1.ROLLOUT_MODE_VAL]),
            "rollout_id_contains": "-1",
        }
        assert await ids(api, **wanted) == []
        assert await ids(api, logic=v1.FILTER_LOGIC_OR, **wanted) == ["train-1", "val-1"]
        del wanted["mode_in"]
        assert await ids(api, **wanted) == ["train-1"]

    async def test_sets_match_exactly_and_duplicates_do_no_harm(self, api: StoreApi) -> None:
        await enqueue(api, "r1", "r2", "r11")
        wanted = v1.StringSet(values=["r2", "r1", "r2", "unknown"])
        found = await list_rollouts(api, v1.Page(with_total_size=True), rollout_id_in=wanted)
        assert [rollout.rollout_id for rollout in found.rollouts] == ["r1", "r2"]
        assert found.page_info.total_size == 2
        twice = await list_rollouts(
            api, v1.Page(with_total_size=True), status_in=v1.RolloutStatusSet(values=[QUEUING, QUEUING])
        )
        assert twice.page_info.total_size == 3

    async def test_parts_match_case_sensitively_and_literally(self, api: StoreApi) -> None:
        """Goes wrong when a part is matched as a pattern, or with another case on another storage."""
        await enqueue(api, "abc", "aBc", "a%c", "a_c")
        assert await ids(api, rollout_id_contains="b") == ["abc"]
        assert await ids(api, rollout_id_contains="%") == ["a%c"]
        assert await ids(api, rollout_id_contains="_") == ["a_c"]
        assert await ids(api, rollout_id_contains="") == ["abc", "aBc", "a%c", "a_c"]

    async def test_the_unspecified_mode_matches_rollouts_without_one(self, api: StoreApi) -> None:
        await enqueue(api, "train", mode=v1.ROLLOUT_MODE_TRAIN)
        await enqueue(api, "none")
        assert await ids(api, mode_in=v1.RolloutModeSet(values=[v1.ROLLOUT_MODE_UNSPECIFIED])) == ["none"]

    async def test_lists_are_sorted_as_asked(self, api: StoreApi, clock: FakeClock) -> None:
        await enqueue(api, "b", mode=v1.ROLLOUT_MODE_VAL, resources_id="rs-2")
        clock.advance(1)
        await enqueue(api, "c", mode=v1.ROLLOUT_MODE_TRAIN, resources_id="rs-3")
        clock.advance(1)
        await enqueue(api, "a", resources_id="rs-1")
        await update(api, "c", status=SUCCEEDED)
        clock.advance(1)
        await update(api, "b", status=CANCELLED)
        expected = {
            "": ["b", "c", "a"],
            "created": ["b", "c", "a"],
            "rollout_id": ["a", "b", "c"],
            "status": ["b", "a", "c"],  # cancelled, queuing, succeeded
            "start_time": ["b", "c", "a"],
            "end_time": ["c", "b", "a"],  # an unset time comes last
            "mode": ["a", "c", "b"],  # none, train, val
            "resources_id": ["a", "b", "c"],
        }
        for order, names in expected.items():
            assert await ids(api, v1.Page(order_by=order)) == names, order
            assert await ids(api, v1.Page(order_by=order, descending=True)) == names[::-1], order

    async def test_equal_values_keep_the_order_of_creation(self, api: StoreApi) -> None:
        await enqueue(api, "c", "a", "b")
        for order in ("status", "start_time", "end_time", "mode"):
            assert await ids(api, v1.Page(order_by=order)) == ["c", "a", "b"]

    async def test_totals_count_all_pages(self, api: StoreApi) -> None:
        await enqueue(api, *[f"r{number}" for number in range(7)])
        await finish(api, "r1", "r2")
        page = v1.Page(page_size=1, with_total_size=True)
        assert (await list_rollouts(api, page)).page_info.total_size == 7
        queuing = v1.RolloutStatusSet(values=[QUEUING, FAILED])
        assert (await list_rollouts(api, page, status_in=queuing)).page_info.total_size == 5
        assert (await list_rollouts(api, page, rollout_id_contains="2")).page_info.total_size == 1
        assert not (await list_rollouts(api)).page_info.HasField("total_size")

    async def test_too_many_ids_are_refused(self, api: StoreApi) -> None:
        await enqueue(api, "r1")
        wanted = [f"r{number}" for number in range(10_001)]
        with refused(InvalidArgument, "TOO_MANY_IDS"):
            await ids(api, rollout_id_in=v1.StringSet(values=wanted))
        assert await ids(api, rollout_id_in=v1.StringSet(values=wanted[:10_000])) == ["r1"]


async def test_a_cancelled_rollout_stays_cancelled_whatever_its_runner_reports(api: StoreApi) -> None:
    """Goes wrong when a late success of the runner un-cancels what the algorithm called off."""
    attempt = await start(api, "r1", config=config(max_attempts=5, retry_on=[AT_FAILED]))
    rollout = await update(api, "r1", status=CANCELLED)
    await report(api, attempt, AT_SUCCEEDED)
    after = await get(api, "r1")
    assert (after.status, after.end_time) == (CANCELLED, rollout.end_time)
    other = await start(api, "r2", config=config(max_attempts=5, retry_on=[AT_FAILED]))
    await update(api, "r2", status=CANCELLED)
    await fail(api, other)
    assert await status_of(api, "r2") == CANCELLED
    assert await queue(api) == []
