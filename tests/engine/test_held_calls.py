"""Held calls that are cancelled at every moment: what they might have claimed is never lost, and never held twice."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from calls import attempts, claimed_ids, dequeue, enqueue, queue, report, statistics
from stores import OpenStore, StorageKind, open_storage

from agentlightning.store.api import CallContext
from agentlightning.store.engine.engine import Engine
from agentlightning.store.storage.sqlite import SqliteStorage
from agentlightning.store.storage.tx import Tx
from lightning_store import v1


@pytest.fixture(params=get_args(StorageKind))
def store(request: pytest.FixtureRequest, quick_folder: Path) -> Iterator[OpenStore]:
    engine = Engine(open_storage(request.param, quick_folder), watches=False)
    yield OpenStore(engine, engine, None)
    engine.close()


@pytest.mark.parametrize("steps", range(10))
async def test_a_caller_that_is_cancelled_after_its_wake_up_claims_nothing(store: OpenStore, steps: int) -> None:
    """Goes wrong when the cancellation is swallowed, or the claim stays with a caller that never heard of it."""
    polling = asyncio.create_task(dequeue(store.api, wait=30, worker_id="gone"))
    await store.until_waiting()
    await enqueue(store.api, "r1")
    for _ in range(steps):
        await asyncio.sleep(0)
    was_cancelled = polling.cancel()
    (outcome,) = await asyncio.gather(polling, return_exceptions=True)
    assert isinstance(outcome, asyncio.CancelledError) == was_cancelled, "the cancellation was swallowed"
    if was_cancelled:
        again = await asyncio.wait_for(dequeue(store.api, wait=5), 25)
        assert claimed_ids(again) == ["r1"]
        assert again.claims[0].attempt.sequence_id == 1, "as if the first claim had never been"
        assert (await statistics(store.api)).total_attempts == 1
    else:
        assert claimed_ids(outcome) == ["r1"]


@pytest.mark.parametrize("steps", range(10))
async def test_a_woken_caller_that_leaves_passes_its_turn_on(store: OpenStore, steps: int) -> None:
    """Goes wrong when the only wake-up goes to a caller that leaves: the next one sleeps beside a full queue."""
    leaving = asyncio.create_task(dequeue(store.api, wait=30))
    await store.until_waiting()
    staying = asyncio.create_task(dequeue(store.api, wait=30))
    await store.until_waiting(2)
    await enqueue(store.api, "r1")
    for _ in range(steps):
        await asyncio.sleep(0)
    if leaving.cancel():
        await asyncio.gather(leaving, return_exceptions=True)
        assert claimed_ids(await asyncio.wait_for(staying, 25)) == ["r1"]
    else:
        assert claimed_ids(await leaving) == ["r1"]
        await enqueue(store.api, "r2")
        assert claimed_ids(await asyncio.wait_for(staying, 25)) == ["r2"]


async def test_a_caller_whose_time_is_up_when_it_is_woken_takes_the_work_or_leaves_it(store: OpenStore) -> None:
    for turn in range(20):
        polling = asyncio.create_task(dequeue(store.api, wait=0.01))
        await asyncio.sleep(0.0095 + turn * 0.0001)
        await enqueue(store.api, f"r{turn}")
        taken = claimed_ids(await polling)
        left = await queue(store.api)
        assert sorted(taken + left) == [f"r{turn}"]
        await dequeue(store.api)


async def test_callers_that_come_and_go_lose_nothing(store: OpenStore) -> None:
    done: list[str] = []

    async def caller(number: int) -> None:
        while len(done) < 60:
            polling = asyncio.create_task(dequeue(store.api, 2, wait=0.3, worker_id=f"w{number}"))
            if number % 2:
                await asyncio.sleep(0.0005 * number)
                polling.cancel()
            (outcome,) = await asyncio.gather(polling, return_exceptions=True)
            if isinstance(outcome, asyncio.CancelledError):
                continue
            for entry in outcome.claims:
                await report(store.api, entry.attempt, v1.ATTEMPT_STATUS_SUCCEEDED)
                done.append(entry.rollout.rollout_id)

    callers = [asyncio.create_task(caller(number)) for number in range(6)]
    for number in range(60):
        await enqueue(store.api, f"r{number}")
        await asyncio.sleep(0)
    await asyncio.wait_for(asyncio.gather(*callers), 20)
    assert sorted(done) == sorted(f"r{number}" for number in range(60))
    totals = await statistics(store.api)
    assert totals.total_attempts == 60
    assert store.waiting() == 0


async def test_a_caller_that_has_gone_is_not_asked_again(store: OpenStore) -> None:
    present = True
    context = CallContext(is_present=lambda: present)
    request = v1.DequeueRolloutsRequest(limit=1, worker_id="w1")
    request.wait.FromSeconds(1)
    polling = asyncio.create_task(store.engine.dequeue_rollouts(context, request))
    await store.until_waiting()
    present = False
    await enqueue(store.api, "r1")
    assert claimed_ids(await asyncio.wait_for(polling, 25)) == []
    assert await queue(store.api) == ["r1"]


async def test_a_caller_that_was_found_gone_passes_its_turn_on(store: OpenStore) -> None:
    present = True
    request = v1.DequeueRolloutsRequest(limit=1)
    request.wait.FromMilliseconds(300)
    gone = asyncio.create_task(store.engine.dequeue_rollouts(CallContext(is_present=lambda: present), request))
    await store.until_waiting()
    staying = asyncio.create_task(dequeue(store.api, wait=30))
    await store.until_waiting(2)
    present = False
    await enqueue(store.api, "r1")
    assert claimed_ids(await asyncio.wait_for(staying, 25)) == ["r1"]
    assert claimed_ids(await gone) == []


async def test_a_repeated_claim_keeps_what_the_cancelled_one_took(quick_folder: Path) -> None:
    """Goes wrong when the first call, cancelled late, takes back what its repeat has already been given."""
    engine = Engine(SqliteStorage(quick_folder / "store.db"), watches=False)
    try:
        await enqueue(engine, "r1")
        first, repeat = await _claim_twice(engine, cancelled=[True, False])
        assert isinstance(first, asyncio.CancelledError)
        assert claimed_ids(repeat) == ["r1"]
        await engine.storage.run(lambda tx: None)
        assert [attempt.attempt_id for attempt in await attempts(engine, "r1")] == [repeat.claims[0].attempt.attempt_id]
        assert await queue(engine) == []
    finally:
        engine.close()


async def test_a_claim_that_was_repeated_and_given_up_goes_back(quick_folder: Path) -> None:
    engine = Engine(SqliteStorage(quick_folder / "store.db"), watches=False)
    try:
        await enqueue(engine, "r1")
        outcomes = await _claim_twice(engine, cancelled=[True, True])
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
        assert await queue(engine) == ["r1"]
        assert await attempts(engine, "r1") == []
    finally:
        engine.close()


async def test_a_repeat_that_is_given_up_late_takes_nothing_back(quick_folder: Path) -> None:
    """Goes wrong when a call that stood still while its repeat was answered takes back what that has handed out."""
    engine = Engine(SqliteStorage(quick_folder / "store.db"), watches=False)
    try:
        await enqueue(engine, "r1")
        (taken,) = (await dequeue(engine, claim_id="c1")).claims
        late = asyncio.create_task(dequeue(engine, claim_id="c1"))
        await asyncio.sleep(0)
        engine.storage.run_blocking(lambda tx: None)  # the late one has run by now, and has not heard of it
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late
        assert [attempt.attempt_id for attempt in await attempts(engine, "r1")] == [taken.attempt.attempt_id]
    finally:
        engine.close()


async def _claim_twice(engine: Engine, cancelled: list[bool]) -> list[v1.DequeueRolloutsResponse | BaseException]:
    """Send a claim and its repeat, cancel some of the two once both are on their way, and only then let them run."""
    blocked, go_on = threading.Event(), threading.Event()

    def hold(tx: Tx) -> None:
        blocked.set()
        go_on.wait(5)

    holding = asyncio.ensure_future(engine.storage.run(hold))
    await asyncio.to_thread(blocked.wait, 5)
    calls = [asyncio.create_task(dequeue(engine, claim_id="c1")) for _ in range(2)]
    await asyncio.sleep(0)
    for call, is_cancelled in zip(calls, cancelled, strict=True):
        if is_cancelled:
            call.cancel()
    await asyncio.sleep(0)
    go_on.set()
    await holding
    return await asyncio.gather(*calls, return_exceptions=True)
