from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

import pytest
from calls import (
    AT_SUCCEEDED,
    CANCELLED,
    HERE,
    SUCCEEDED,
    add_spans,
    delete,
    enqueue,
    everything,
    finish,
    flat,
    following,
    refused,
    report,
    span,
    start,
    start_attempt,
    update,
    waiting_for,
)
from stores import OpenStore

from agentlightning.store.api import StoreApi
from agentlightning.store.errors import InvalidArgument, NotFound, Unavailable
from lightning_store import v1


def told(event: v1.WaitForRolloutsResponse) -> str:
    """An event in a word."""
    kind = event.WhichOneof("event")
    if kind == "finished":
        return f"finished {event.finished.rollout_id}"
    if kind == "not_found_rollout_id":
        return f"unknown {event.not_found_rollout_id}"
    if kind == "span_chunk":
        return f"spans {event.span_chunk.rollout_id}"
    return f"done {' '.join(sorted(event.done.pending_rollout_ids))}".strip()


async def test_what_is_finished_or_unknown_is_told_at_once(api: StoreApi) -> None:
    await enqueue(api, "r1", "r2", "r3")
    await finish(api, "r1")
    await update(api, "r3", status=CANCELLED)
    events = await everything(waiting_for(api, "r1", "nobody", "r3"))
    assert {told(event) for event in events[:-1]} == {"finished r1", "unknown nobody", "finished r3"}
    assert told(events[-1]) == "done"
    assert next(event.finished for event in events if told(event) == "finished r3").status == CANCELLED


async def test_the_others_are_told_the_moment_they_finish(api: StoreApi) -> None:
    await enqueue(api, "r1", "r2", "r3")
    async with aclosing(waiting_for(api, "r1", "r2", "r3")) as stream:
        for name in ("r2", "r3", "r1"):
            arriving = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0.01)
            assert not arriving.done()
            await finish(api, name)
            finished = (await asyncio.wait_for(arriving, 25)).finished
            assert (finished.rollout_id, finished.status) == (name, SUCCEEDED)
            assert finished.latest_attempt.status == AT_SUCCEEDED
        assert told(await following(stream)) == "done"
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_a_wait_that_is_over_names_what_is_left(api: StoreApi) -> None:
    await enqueue(api, "r1", "r2", "r3")
    await finish(api, "r2")
    before = time.monotonic()
    events = [told(event) for event in await everything(waiting_for(api, "r1", "r2", "r3", timeout=0.2))]
    assert 0.19 <= time.monotonic() - before < 20
    assert events == ["finished r2", "done r1 r3"]


@pytest.mark.parametrize("timeout", [0, -1])
async def test_no_time_means_what_is_finished_now(api: StoreApi, timeout: float) -> None:
    await enqueue(api, "r1", "r2")
    await finish(api, "r1")
    events = await asyncio.wait_for(everything(waiting_for(api, "r1", "r2", timeout=timeout)), 25)
    assert [told(event) for event in events] == ["finished r1", "done r2"]


async def test_two_hundred_pending_rollouts_cost_one_timeout(store: OpenStore, api: StoreApi) -> None:
    """Goes wrong when every rollout takes a thread for its wait: the timeouts come one after the other."""
    names = [f"r{number}" for number in range(200)]
    await enqueue(api, *names)
    before = time.monotonic()
    (done,) = await everything(waiting_for(api, *names, timeout=0.2))
    assert sorted(done.done.pending_rollout_ids) == sorted(names)
    assert time.monotonic() - before < 20
    waiting = asyncio.create_task(everything(waiting_for(api, *names, timeout=60)))
    await store.until_waiting()
    assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 25) == "free"
    for name in names:
        await update(api, name, status=SUCCEEDED)
    events = await asyncio.wait_for(waiting, 25)
    assert sorted(told(event) for event in events) == sorted(["done", *(f"finished {name}" for name in names)])


async def test_an_id_that_is_named_twice_counts_once(api: StoreApi) -> None:
    await enqueue(api, "r1")
    await finish(api, "r1")
    events = await everything(waiting_for(api, "r1", "r1", "x", "x"))
    assert sorted(told(event) for event in events) == ["done", "finished r1", "unknown x"]


async def test_a_wait_for_nothing_is_over_at_once(api: StoreApi) -> None:
    assert [told(event) for event in await everything(waiting_for(api))] == ["done"]


async def test_more_than_ten_thousand_ids_are_refused(api: StoreApi) -> None:
    names = [f"r{number}" for number in range(10_001)]
    with refused(InvalidArgument, "TOO_MANY_IDS"):
        await everything(waiting_for(api, *names))
    async with aclosing(waiting_for(api, *names[:10_000])) as stream:
        assert told(await following(stream)) == "unknown r0"


async def test_a_rollout_that_is_deleted_meanwhile_is_told(store: OpenStore, api: StoreApi) -> None:
    await enqueue(api, "r1", "r2")
    waiting = asyncio.create_task(everything(waiting_for(api, "r1", "r2")))
    await store.until_waiting()
    await delete(api, "r2")
    await finish(api, "r1")
    assert [told(event) for event in await asyncio.wait_for(waiting, 25)] == ["unknown r2", "finished r1", "done"]


async def test_a_rollout_that_runs_again_is_waited_for_again(api: StoreApi) -> None:
    """Goes wrong when "has finished once" is remembered: waits for the second finish end at once, with nothing."""
    await enqueue(api, "r1")
    await finish(api, "r1")
    second = await start_attempt(api, "r1")
    assert [told(event) for event in await everything(waiting_for(api, "r1", timeout=0.05))] == ["done r1"]
    async with aclosing(waiting_for(api, "r1")) as stream:
        arriving = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.01)
        await report(api, second, AT_SUCCEEDED)
        assert (await asyncio.wait_for(arriving, 25)).finished.latest_attempt.sequence_id == 2


async def test_many_callers_may_wait_for_one_rollout(store: OpenStore, api: StoreApi) -> None:
    await enqueue(api, "r1")
    waits = [asyncio.create_task(everything(waiting_for(api, "r1"))) for _ in range(10)]
    await store.until_waiting(10)
    await finish(api, "r1")
    for events in await asyncio.wait_for(asyncio.gather(*waits), 25):
        assert [told(event) for event in events] == ["finished r1", "done"]


async def test_a_caller_that_leaves_is_forgotten(store: OpenStore, api: StoreApi) -> None:
    await enqueue(api, "r1")
    waiting = asyncio.create_task(everything(waiting_for(api, "r1")))
    await store.until_waiting()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await store.until_waiting(0)
    await finish(api, "r1")


async def test_an_unknown_experiment_is_not_found(api: StoreApi) -> None:
    with refused(NotFound, "EXPERIMENT_NOT_FOUND"):
        await everything(waiting_for(api, "r1", experiment="typo"))


async def test_a_wait_ends_when_its_experiment_is_deleted(store: OpenStore, api: StoreApi) -> None:
    """Goes wrong when a wait goes on in a new experiment that took the name: nothing would ever wake it."""
    await enqueue(api, "r1", experiment="gone")
    waiting = asyncio.create_task(everything(waiting_for(api, "r1", experiment="gone")))
    await store.until_waiting()
    await api.delete_experiment(HERE, v1.DeleteExperimentRequest(name="gone"))
    await enqueue(api, "r1", experiment="gone")
    with refused(NotFound, "EXPERIMENT_NOT_FOUND"):
        await asyncio.wait_for(waiting, 25)


async def test_a_closing_store_ends_waits(store: OpenStore, api: StoreApi) -> None:
    await enqueue(api, "r1")
    waiting = asyncio.create_task(everything(waiting_for(api, "r1")))
    await store.until_waiting()
    store.engine.drain()
    with refused(Unavailable, "SHUTTING_DOWN"):
        await asyncio.wait_for(waiting, 25)


class TestWithSpans:
    async def test_spans_follow_their_rollout_in_order(self, api: StoreApi) -> None:
        first = await start(api, "r1")
        second = await start_attempt(api, "r1")
        await add_spans(api, span(second, "b", number=2), span(first, "a", number=1), span(second, "c", number=3))
        await report(api, second, AT_SUCCEEDED)
        await enqueue(api, "bare")
        await update(api, "bare", status=CANCELLED)
        for view, names in (
            (v1.SPANS_VIEW_ALL_ATTEMPTS, ["a", "b", "c"]),
            (v1.SPANS_VIEW_LATEST_ATTEMPT, ["b", "c"]),
        ):
            events = await everything(waiting_for(api, "r1", "bare", spans_view=view))
            assert [told(event) for event in events] == [
                "finished r1",
                "spans r1",
                "finished bare",
                "spans bare",
                "done",
            ]
            assert [one.name for one in flat(events[1].span_chunk.resource_spans)] == names
            assert events[1].span_chunk.last
            assert events[3].span_chunk.last
            assert not events[3].span_chunk.resource_spans

    @pytest.mark.parametrize("view", [v1.SPANS_VIEW_NONE, v1.SPANS_VIEW_UNSPECIFIED])
    async def test_spans_come_only_when_asked_for(self, api: StoreApi, view: v1.SpansView.ValueType) -> None:
        attempt = await start(api, "r1")
        await add_spans(api, span(attempt))
        await report(api, attempt, AT_SUCCEEDED)
        events = await everything(waiting_for(api, "r1", spans_view=view))
        assert [told(event) for event in events] == ["finished r1", "done"]

    async def test_chunks_are_bounded_by_bytes_and_a_larger_span_comes_alone(self, api: StoreApi) -> None:
        attempt = await start(api, "r1")

        def large(name: str, size: int) -> v1.Span:
            return span(attempt, name, attributes=[v1.KeyValue(key="x", value=v1.AnyValue(bytes_value=bytes(size)))])

        await add_spans(api, *[large(f"s{number}", 700_000) for number in range(5)])
        await add_spans(api, large("huge", 3_000_000), large("small", 10))
        await report(api, attempt, AT_SUCCEEDED)
        events = await everything(waiting_for(api, "r1", spans_view=v1.SPANS_VIEW_ALL_ATTEMPTS))
        chunks = [event.span_chunk for event in events if event.HasField("span_chunk")]
        names = [[one.name for one in flat(chunk.resource_spans)] for chunk in chunks]
        assert names == [["s0", "s1"], ["s2", "s3"], ["s4"], ["huge"], ["small"]]
        assert [chunk.last for chunk in chunks] == [False] * 4 + [True]
        assert all(chunk.ByteSize() <= 2 << 20 for chunk in chunks if chunk is not chunks[3])

    async def test_a_deletion_between_the_chunks_does_not_break_the_wait(self, store: OpenStore, api: StoreApi) -> None:
        await enqueue(api, "r1", "r2")
        attempt = await start_attempt(api, "r1")
        large = [
            span(attempt, attributes=[v1.KeyValue(key="x", value=v1.AnyValue(bytes_value=bytes(1_500_000)))])
            for _ in range(3)
        ]
        await add_spans(api, *large)
        await report(api, attempt, AT_SUCCEEDED)
        stream = waiting_for(store.engine, "r1", "r2", spans_view=v1.SPANS_VIEW_ALL_ATTEMPTS)
        async with aclosing(stream):
            assert told(await following(stream)) == "finished r1"
            assert not (await following(stream)).span_chunk.last
            await delete(api, "r1")
            assert (await following(stream)).span_chunk.last
            await finish(api, "r2")
            assert told(await following(stream)) == "finished r2"


async def test_waits_are_over_in_time_while_the_store_is_busy(living: OpenStore) -> None:
    await enqueue(living.api, "r1")
    noise = asyncio.create_task(_keep_changing(living.api))
    before = time.monotonic()
    assert [told(event) for event in await everything(waiting_for(living.api, "r1", timeout=0.3))] == ["done r1"]
    assert time.monotonic() - before < 20
    noise.cancel()
    await asyncio.gather(noise, return_exceptions=True)


async def _keep_changing(api: StoreApi) -> None:
    while True:
        await enqueue(api, "")
        await asyncio.sleep(0)
