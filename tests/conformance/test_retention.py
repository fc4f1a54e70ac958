from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest
from calls import (
    AT_SUCCEEDED,
    CANCELLED,
    HERE,
    add_spans,
    attempts,
    claim,
    config,
    enqueue,
    everything,
    fail,
    finish,
    following,
    ids,
    refused,
    report,
    span,
    spans,
    start,
    start_attempt,
    statistics,
    update,
    waiting_for,
    watching,
    worker,
)
from stores import DAY, SECOND, FakeClock, OpenStore, Variant

from agentlightning.store.api import StoreApi
from agentlightning.store.engine.retention import Retention
from agentlightning.store.errors import AlreadyExists, OutOfRange
from agentlightning.store.storage.tx import Tx
from lightning_store import v1

Open = Callable[[Retention], AbstractAsyncContextManager[OpenStore]]
HOUR = 3600.0
AN_HOUR = Retention(keep_finished=round(HOUR * SECOND))
TWO = Retention(keep_finished_count=2)


@pytest.fixture
def keeping(variant: Variant, clock: FakeClock) -> Open:
    """Opens an empty store that keeps finished rollouts but for a time or in a number."""
    return lambda retention: variant.open(clock=clock, retention=retention)


async def run(api: StoreApi, *rollout_ids: str) -> None:
    """Run rollouts that leave a span each."""
    for rollout_id in rollout_ids:
        attempt = await start(api, rollout_id)
        await add_spans(api, span(attempt))
        await report(api, attempt, AT_SUCCEEDED)


async def test_nothing_is_deleted_unless_it_is_asked_for(store: OpenStore, api: StoreApi) -> None:
    await run(api, "r1")
    store.pass_time(1000 * DAY)
    assert await ids(api) == ["r1"]


async def test_a_finished_rollout_goes_when_its_time_is_over_with_all_that_belongs_to_it(keeping: Open) -> None:
    async with keeping(AN_HOUR) as store:
        api = store.api
        await run(api, "r1")
        store.pass_time(HOUR / 2)
        await run(api, "r2")
        store.pass_time(HOUR / 2)
        assert await ids(api) == ["r1", "r2"]
        store.pass_time(1)
        assert await ids(api) == ["r2"]
        assert await attempts(api, "r1") == []
        assert await spans(api, "r1") == []
        totals = await statistics(api)
        assert (totals.total_rollouts, totals.total_attempts, totals.total_spans) == (1, 1, 1)
        store.pass_time(HOUR / 2)
        assert await ids(api) == []


async def test_the_time_counts_from_the_end(keeping: Open) -> None:
    async with keeping(AN_HOUR) as store:
        attempt = await start(store.api, "long")
        store.pass_time(2 * HOUR)
        await report(store.api, attempt, AT_SUCCEEDED)
        store.pass_time(HOUR)
        assert await ids(store.api) == ["long"]
        store.pass_time(1)
        assert await ids(store.api) == []


async def test_the_last_to_finish_are_kept_whatever_their_age(keeping: Open) -> None:
    async with keeping(TWO) as store:
        api = store.api
        first = await start(api, "started-first")
        for rollout_id in ("r1", "r2", "r3"):
            await run(api, rollout_id)
            store.pass_time(1)
        await report(api, first, AT_SUCCEEDED)
        store.pass_time(1)
        assert await ids(api, v1.Page(order_by="end_time")) == ["r3", "started-first"]
        store.pass_time(1000 * DAY)
        assert await ids(api, v1.Page(order_by="end_time")) == ["r3", "started-first"]


async def test_each_way_of_being_finished_counts(keeping: Open) -> None:
    async with keeping(TWO) as store:
        api = store.api
        await run(api, "succeeded")
        store.pass_time(1)
        await fail(api, await start(api, "failed"))
        store.pass_time(1)
        await enqueue(api, "cancelled")
        await update(api, "cancelled", status=CANCELLED)
        store.pass_time(1)
        assert await ids(api) == ["failed", "cancelled"]


async def test_what_is_not_finished_is_never_deleted(keeping: Open) -> None:
    """Goes wrong when work that waits long in the queue, or in the hands of a runner, is lost."""
    async with keeping(Retention(keep_finished=SECOND, keep_finished_count=1)) as store:
        api = store.api
        await enqueue(api, "waits")
        await start(api, "begins")
        working = await start(api, "works")
        await add_spans(api, span(working))
        await fail(api, await start(api, "again", config=config(max_attempts=2, retry_on=[v1.ATTEMPT_STATUS_FAILED])))
        await run(api, "r1", "r2")
        store.pass_time(1000 * DAY)
        assert await ids(api) == ["waits", "begins", "works", "again"]
        assert len(await spans(api, "works")) == 1


async def test_a_rollout_that_is_taken_up_again_is_kept(keeping: Open) -> None:
    async with keeping(AN_HOUR) as store:
        await run(store.api, "r1")
        await start_attempt(store.api, "r1")
        store.pass_time(10 * HOUR)
        assert await ids(store.api) == ["r1"]


async def test_each_experiment_keeps_its_own_number(keeping: Open) -> None:
    async with keeping(TWO) as store:
        api = store.api
        await run(api, "r1", "r2")
        for number in range(3):
            await enqueue(api, f"other{number}", experiment="other")
        store.pass_time(1)
        assert await ids(api) == ["r1", "r2"]
        assert (await statistics(api, "other")).total_rollouts == 3


async def test_many_go_in_portions(keeping: Open) -> None:
    """Goes wrong when a store that learns to forget deletes all at once, and nobody else can write meanwhile."""
    async with keeping(Retention(keep_finished_count=1)) as store:
        api = store.api
        await enqueue(api, *(f"r{number}" for number in range(250)))
        await asyncio.gather(*(update(api, f"r{number}", status=CANCELLED) for number in range(250)))
        left = []
        while store.engine.look_after_attempts() == 0.0:
            left.append((await statistics(api)).total_rollouts)
        assert left == [150, 50, 1]


async def test_watchers_and_waiters_hear_of_it(keeping: Open) -> None:
    async with keeping(AN_HOUR) as store:
        api = store.api
        await run(api, "r1")
        stream = watching(api)
        assert [change.rollout.rollout_id for change in (await following(stream)).changes] == ["r1"]
        await store.until_waiting(1)
        store.pass_time(HOUR + 1)
        assert [change.deleted_rollout_id for change in (await following(stream)).changes] == ["r1"]
        await stream.aclose()
        events = await everything(waiting_for(api, "r1", timeout=5))
        assert events[0].not_found_rollout_id == "r1"


async def test_a_deleted_id_is_remembered_for_a_day_and_then_forgotten(keeping: Open) -> None:
    """Goes wrong when what is remembered of deletions piles up for ever."""
    async with keeping(AN_HOUR) as store:
        api = store.api
        await run(api, "r1")
        stream = watching(api)
        cursor = (await following(stream)).cursor
        await stream.aclose()
        store.pass_time(HOUR + 1)
        with refused(AlreadyExists, "ROLLOUT_EXISTS"):
            await enqueue(api, "r1")
        store.pass_time(DAY + 1)
        assert await tombstones(store) == 0
        with refused(OutOfRange, "CURSOR_EXPIRED"):
            await following(watching(api, cursor))
        await enqueue(api, "r1")


async def tombstones(store: OpenStore) -> int:
    """The deletions of the default experiment that are remembered."""

    def count(tx: Tx) -> int:
        experiment = tx.experiment("default")
        assert experiment is not None
        return len(tx.tombstones(experiment.key, 0, 10_000))

    return await store.engine.storage.read(count)


async def test_many_deletions_are_forgotten_in_portions(keeping: Open) -> None:
    async with keeping(Retention(keep_finished_count=1)) as store:
        api = store.api
        await enqueue(api, *(f"r{number}" for number in range(501)))
        await asyncio.gather(*(update(api, f"r{number}", status=CANCELLED) for number in range(501)))
        store.pass_time(1)
        assert await tombstones(store) == 500
        assert store.clock is not None
        store.clock.advance(DAY + 1)
        left = []
        while store.engine.look_after_attempts() == 0.0:
            left.append(await tombstones(store))
        assert left == [300, 100]
        assert await tombstones(store) == 0


async def test_scopes_that_no_span_is_of_any_more_go_too(keeping: Open) -> None:
    """Goes wrong when each run leaves its resource and scope behind: the store grows though it keeps nothing."""
    async with keeping(TWO) as store:
        for number in range(6):
            attempt = await start(store.api, f"r{number}")
            scoped = v1.ScopeSpans(scope=v1.InstrumentationScope(name=f"scope{number}"), spans=[span(attempt)])
            request = v1.AddSpansRequest(resource_spans=[v1.ResourceSpans(scope_spans=[scoped])])
            await store.api.add_spans(HERE, request)
            await report(store.api, attempt, AT_SUCCEEDED)
            store.pass_time(1)
        found = await store.engine.storage.read(
            lambda tx: tx._execute("SELECT COUNT(*) FROM sources").fetchone()[0]  # noqa: SLF001  no call tells
        )
        assert found == 2


async def test_a_worker_whose_rollout_went_is_free(keeping: Open) -> None:
    async with keeping(AN_HOUR) as store:
        api = store.api
        await enqueue(api, "r1")
        await claim(api, worker_id="w1")
        await update(api, "r1", status=CANCELLED)
        store.pass_time(HOUR + 1)
        assert (await worker(api, "w1")).status == v1.WORKER_STATUS_IDLE


async def test_it_happens_by_itself(variant: Variant) -> None:
    """Goes wrong when only a call, or an attempt with limits, makes the server look."""
    async with variant.open(retention=Retention(keep_finished_count=1)) as store:
        await enqueue(store.api, "waits")
        await finish(store.api, "waits")
        await run(store.api, "r1", "r2")
        stream = watching(store.api)
        deleted: list[str] = []
        while len(deleted) < 2:
            response = await following(stream, within=30)
            deleted += [change.deleted_rollout_id for change in response.changes if change.deleted_rollout_id]
        await stream.aclose()
        assert deleted == ["waits", "r1"]
        assert await ids(store.api) == ["r2"]
