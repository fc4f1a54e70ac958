from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from calls import (
    AT_SUCCEEDED,
    HERE,
    RUNNING,
    add_spans,
    context,
    delete,
    enqueue,
    everything,
    list_spans,
    payload,
    refused,
    report,
    span,
    spans,
    start,
    start_attempt,
    statistics,
    status_of,
    waiting_for,
)
from stores import OpenStore, Variant

from agentlightning.store.api import StoreApi
from agentlightning.store.engine.scope import SpanBound
from agentlightning.store.errors import ResourceExhausted
from agentlightning.store.remote.api import Remote, connect
from agentlightning.store.remote.retries import RetryPolicy
from lightning_store import v1

BOUND = SpanBound(evict_above=10_000, evict_down_to=6_000)


@pytest_asyncio.fixture
async def bounded(variant: Variant) -> AsyncIterator[OpenStore]:
    """A store that keeps ten thousand bytes of spans."""
    async with variant.open(span_bound=BOUND) as opened:
        yield opened


@pytest.fixture
def api(bounded: OpenStore) -> StoreApi:
    return bounded.api


async def fill(api: StoreApi, attempt: v1.Attempt, size: int, count: int = 1) -> None:
    """Add spans of about a size."""
    blob = v1.KeyValue(key="x", value=v1.AnyValue(bytes_value=bytes(size - 80)))
    await add_spans(api, *[span(attempt, attributes=[blob]) for _ in range(count)])


async def run(api: StoreApi, rollout_id: str, size: int) -> v1.Attempt:
    """Run a rollout that leaves spans of about a size."""
    attempt = await start(api, rollout_id)
    await fill(api, attempt, size)
    await report(api, attempt, AT_SUCCEEDED)
    return attempt


async def counts(api: StoreApi, rollout_id: str) -> tuple[int, int]:
    """The spans of a rollout that are there, and those that were dropped."""
    response = await list_spans(api, rollout_id)
    return len(await spans(api, rollout_id)), response.evicted_spans


async def test_the_spans_of_finished_rollouts_are_dropped_the_oldest_first(
    api: StoreApi, caplog: pytest.LogCaptureFixture
) -> None:
    """Goes wrong when the spans of rollouts at work are dropped: what was learnt so far is lost under the learner."""
    at_work = await start(api, "at-work")
    await fill(api, at_work, 1000)
    for number in range(4):
        await run(api, f"r{number}", 2000)
    assert [await counts(api, f"r{number}") for number in range(4)] == [(1, 0)] * 4
    with caplog.at_level(logging.WARNING):
        await run(api, "r4", 2000)
    assert [await counts(api, f"r{number}") for number in range(5)] == [(0, 1), (0, 1), (0, 1), (1, 0), (1, 0)]
    assert await counts(api, "at-work") == (1, 0)
    assert "r0, r1, r2" in caplog.text
    totals = await statistics(api)
    assert (totals.total_spans, totals.evicted_spans) == (3, 3)
    assert totals.total_span_bytes <= BOUND.evict_down_to
    assert (totals.eviction_threshold_bytes, totals.safe_threshold_bytes) == (10_000, 6_000)
    assert totals.total_rollouts == 6


async def test_spans_that_come_after_a_drop_are_readable(api: StoreApi) -> None:
    """Goes wrong when a rollout counts as evicted for ever: spans that come later can never be read."""
    attempt = await run(api, "r0", 2000)
    for number in range(1, 6):
        await run(api, f"r{number}", 2000)
    assert await counts(api, "r0") == (0, 1)
    await fill(api, attempt, 500)
    assert await counts(api, "r0") == (1, 1)
    assert (await spans(api, "r0"))[0].sequence_id == 2, "numbers never go back"


async def test_dropped_spans_are_told_for_each_attempt(api: StoreApi) -> None:
    first = await start(api, "r0")
    await fill(api, first, 1000, count=2)
    second = await start_attempt(api, "r0")
    await fill(api, second, 1000)
    await report(api, second, AT_SUCCEEDED)
    for number in range(1, 5):
        await run(api, f"r{number}", 2000)
    for attempt_id, dropped in (("", 3), (first.attempt_id, 2), (second.attempt_id, 1), ("latest", 1)):
        response = await list_spans(api, "r0", attempt_id)
        assert (list(response.resource_spans), response.evicted_spans) == ([], dropped)


async def test_sizes_are_counted_right_after_drops_and_deletions(api: StoreApi) -> None:
    """Goes wrong when dropping does not count down: in the end everything is dropped at once."""
    for number in range(30):
        await run(api, f"r{number}", 1500)
        totals = await statistics(api)
        kept = [one for turn in range(number + 1) for one in await spans(api, f"r{turn}")]
        for one in kept:
            one.ClearField("sequence_id")  # the server's, and not part of what is stored
        assert totals.total_span_bytes == sum(one.ByteSize() for one in kept) <= BOUND.evict_above
        assert totals.total_spans == len(kept) >= min(number + 1, 2)
    await delete(api, *[f"r{number}" for number in range(30)])
    assert (await statistics(api)).total_span_bytes == 0


async def test_a_store_full_of_work_says_so_and_when_to_try_again(api: StoreApi) -> None:
    attempts = [await start(api, f"r{number}") for number in range(5)]
    for attempt in attempts[:4]:
        await fill(api, attempt, 2400)
    with refused(ResourceExhausted, "SPAN_MEMORY_FULL") as caught:
        await api_without_retries(api).add_spans(HERE, _request(attempts[4], 2400))
    assert caught.value.retry_after is not None
    assert caught.value.retry_after > 0
    assert await counts(api, "r4") == (0, 0)
    assert await status_of(api, "r4") != RUNNING
    await report(api, attempts[0], AT_SUCCEEDED)
    await fill(api, attempts[4], 2400)
    assert await counts(api, "r4") == (1, 0)
    assert await counts(api, "r0") == (0, 1)


def _request(attempt: v1.Attempt, size: int) -> v1.AddSpansRequest:
    blob = v1.KeyValue(key="x", value=v1.AnyValue(bytes_value=bytes(size)))
    one = span(attempt, attributes=[blob])
    return v1.AddSpansRequest(resource_spans=[v1.ResourceSpans(scope_spans=[v1.ScopeSpans(spans=[one])])])


def api_without_retries(api: StoreApi) -> StoreApi:
    """The same store, over a client that gives up at once where it has one."""
    return connect(api.target, retries=RetryPolicy(delays=())) if isinstance(api, Remote) else api


async def test_a_wait_with_spans_tells_of_finished_rollouts_whose_spans_are_gone(api: StoreApi) -> None:
    for number in range(6):
        await run(api, f"r{number}", 2000)
    events = await everything(waiting_for(api, "r0", spans_view=v1.SPANS_VIEW_ALL_ATTEMPTS))
    assert [event.WhichOneof("event") for event in events] == ["finished", "span_chunk", "done"]
    assert not events[1].span_chunk.resource_spans


async def test_the_bound_is_one_for_all_experiments(bounded: OpenStore, api: StoreApi) -> None:
    await run(api, "r0", 5000)
    (rollout,) = await enqueue(api, "r1", experiment="other")
    request = v1.StartRolloutRequest(rollout=v1.NewRollout(rollout_id="r2"))
    attempt = (await api.start_rollout(context("other"), request)).rollout.latest_attempt
    await api.add_spans(context("other"), _request(attempt, 7000))
    assert await counts(api, "r0") == (0, 1)
    assert (await statistics(api, "other")).total_spans == 1
    assert rollout.rollout_id == "r1"


async def test_without_a_bound_nothing_is_dropped(variant: Variant) -> None:
    async with variant.open() as opened:
        for number in range(4):
            await run(opened.api, f"r{number}", 500_000)
        totals = await statistics(opened.api)
        assert (totals.total_spans, totals.evicted_spans, totals.eviction_threshold_bytes) == (4, 0, 0)


async def test_a_memory_store_without_room_drops_old_spans_before_it_refuses(variant: Variant) -> None:
    """Goes wrong when inputs and indexes fill the store before its spans alone do: all is refused then."""
    if variant.kind != "memory":
        pytest.skip("the bound on the whole database is that of the memory storage")
    async with variant.open(span_bound=SpanBound(1 << 30, 1 << 29), max_bytes=1 << 20) as opened:
        api = opened.api
        for number in range(5):
            await run(api, f"old{number}", 100_000)
        for number in range(8):
            await enqueue(api, f"r{number}", input=payload("x" * 90_000))
        assert await counts(api, "old0") == (0, 1)
        totals = await statistics(api)
        assert totals.total_rollouts == 13
        assert totals.evicted_spans == 5 - totals.total_spans > 0


async def test_a_memory_store_that_has_no_room_left_refuses_and_lives_on(variant: Variant) -> None:
    """Goes wrong when a store in memory grows until the machine ends it, or breaks when its bound is reached."""
    if variant.kind != "memory":
        pytest.skip("the bound on the whole database is that of the memory storage")
    async with variant.open(max_bytes=1 << 20) as opened:
        api = opened.api
        await enqueue(api, "first")
        with refused(ResourceExhausted, "STORAGE_FULL") as caught:
            for number in range(100):
                await enqueue(api, f"r{number}", input=payload("x" * 50_000))
        assert caught.value.retry_after is None, "trying again does not help"
        assert await status_of(api, "first") == v1.ROLLOUT_STATUS_QUEUING
        await delete(api, *[f"r{number}" for number in range(100)])
        await enqueue(api, "after", input=payload("x" * 50_000))
        assert await status_of(api, "after") == v1.ROLLOUT_STATUS_QUEUING
