from __future__ import annotations

import pytest
from calls import (
    AT_FAILED,
    AT_RUNNING,
    AT_SUCCEEDED,
    AT_UNRESPONSIVE,
    FAILED,
    PREPARING,
    REQUEUING,
    RUNNING,
    add_spans,
    attempt_of,
    attempts,
    beat,
    claim,
    config,
    dequeue,
    enqueue,
    get,
    queue,
    refused,
    report,
    span,
    start,
    start_attempt,
    status_of,
)
from stores import DAY, OpenStore, Variant

from agentlightning.store.api import StoreApi
from agentlightning.store.errors import InvalidArgument
from lightning_store import v1


async def test_a_lease_runs_down(store: OpenStore, api: StoreApi) -> None:
    await enqueue(api, "r1")
    attempt = await claim(api, lease=10)
    assert attempt.lease_remaining.ToSeconds() == 10
    store.pass_time(4)
    assert (await attempt_of(api, attempt)).lease_remaining.ToSeconds() == 6


async def test_a_claim_without_a_lease_has_none_and_is_never_lost(store: OpenStore, api: StoreApi) -> None:
    await enqueue(api, "r1")
    attempt = await claim(api)
    assert not attempt.HasField("lease_remaining")
    store.pass_time(10 * DAY)
    assert await attempt_of(api, attempt) == attempt


@pytest.mark.parametrize("lease", [0, 0.999, -1, DAY + 1])
async def test_a_lease_lasts_from_a_second_to_a_day(api: StoreApi, lease: float) -> None:
    await enqueue(api, "r1")
    with refused(InvalidArgument, "INVALID_LEASE"):
        await dequeue(api, lease=lease)
    with refused(InvalidArgument, "INVALID_LEASE"):
        await start(api, "r2", lease=lease)
    with refused(InvalidArgument, "INVALID_LEASE"):
        await start_attempt(api, "r1", lease=lease)
    assert await queue(api) == ["r1"]
    assert (await claim(api, lease=DAY if lease > 1 else 1)).HasField("lease_remaining")


async def test_every_sign_of_life_renews_a_lease(store: OpenStore, api: StoreApi) -> None:
    attempt = await start(api, "r1", worker_id="w1", lease=10)
    signs = (
        lambda: beat(api, "w1", attempt),
        lambda: report(api, attempt),
        lambda: report(api, attempt, AT_RUNNING),
        lambda: add_spans(api, span(attempt)),
    )
    for sign in signs:
        store.pass_time(9)
        await sign()
        assert (await attempt_of(api, attempt)).lease_remaining.ToSeconds() == 10
    store.pass_time(10)
    assert await status_of(api, "r1") == RUNNING
    store.pass_time(0.001)
    assert (await attempt_of(api, attempt)).status == AT_UNRESPONSIVE


async def test_an_ended_attempt_has_no_lease(store: OpenStore, api: StoreApi) -> None:
    attempt = await start(api, "r1", lease=10)
    assert not (await report(api, attempt, AT_SUCCEEDED)).HasField("lease_remaining")
    store.pass_time(60)
    assert (await attempt_of(api, attempt)).status == AT_SUCCEEDED


async def test_a_lease_lost_before_work_began_costs_no_attempt(store: OpenStore, api: StoreApi) -> None:
    await enqueue(api, "r1", "r2")
    lost = await claim(api, lease=5, worker_id="w1")
    store.pass_time(5.1)
    after = await attempt_of(api, lost)
    assert after.status == AT_UNRESPONSIVE
    assert after.failure.kind == v1.ATTEMPT_FAILURE_KIND_LEASE_LOST
    assert not after.HasField("end_time")
    assert not after.HasField("lease_remaining")
    assert await status_of(api, "r1") == REQUEUING
    assert await queue(api) == ["r1", "r2"], "it takes its old place"
    second = await claim(api, lease=5)
    assert (second.rollout_id, second.sequence_id) == ("r1", 2)
    await report(api, second, AT_SUCCEEDED)
    assert await status_of(api, "r1") == v1.ROLLOUT_STATUS_SUCCEEDED


async def test_lost_leases_do_not_use_up_the_attempts_of_the_config(store: OpenStore, api: StoreApi) -> None:
    await enqueue(api, "r1", config=config(max_attempts=2, retry_on=[AT_FAILED]))
    for _ in range(3):
        await claim(api, lease=5)
        store.pass_time(6)
    await report(api, await claim(api, lease=5), AT_FAILED)
    assert await status_of(api, "r1") == REQUEUING
    await report(api, await claim(api, lease=5), AT_FAILED)
    assert await status_of(api, "r1") == FAILED
    assert len(await attempts(api, "r1")) == 5


async def test_a_rollout_that_loses_every_lease_comes_to_an_end(store: OpenStore, api: StoreApi) -> None:
    """Goes wrong when a rollout that kills its runners at the start is handed out for ever."""
    await enqueue(api, "r1")
    for _ in range(20):
        if (await get(api, "r1")).status == FAILED:
            break
        await claim(api, lease=1)
        store.pass_time(2)
    assert await status_of(api, "r1") == FAILED


async def test_a_lease_lost_at_work_follows_the_config(store: OpenStore, api: StoreApi) -> None:
    retried = config(max_attempts=2, retry_on=[AT_UNRESPONSIVE])
    await enqueue(api, "once")
    await enqueue(api, "twice", config=retried)
    for _ in range(2):
        await report(api, await claim(api, lease=5), AT_RUNNING)
    store.pass_time(6)
    assert await status_of(api, "once") == FAILED
    assert await status_of(api, "twice") == REQUEUING
    await report(api, await claim(api, lease=5), AT_RUNNING)
    store.pass_time(6)
    assert await status_of(api, "twice") == FAILED


async def test_a_sign_of_life_takes_the_rollout_back_while_nobody_else_has_it(store: OpenStore, api: StoreApi) -> None:
    await enqueue(api, "by-span", "by-report", "by-heartbeat")
    traced, reported, held = [entry.attempt for entry in (await dequeue(api, 3, lease=5, worker_id="w1")).claims]
    store.pass_time(6)
    assert await queue(api) == ["by-span", "by-report", "by-heartbeat"]
    await add_spans(api, span(traced))
    await report(api, reported)
    assert not (await beat(api, "w1", held)).commands
    assert await queue(api) == []
    for attempt in (traced, reported, held):
        after = await attempt_of(api, attempt)
        assert after.status == AT_RUNNING
        assert not after.HasField("failure")
        assert after.lease_remaining.ToSeconds() == 5
        assert await status_of(api, attempt.rollout_id) == RUNNING


async def test_a_superseded_attempt_does_not_take_the_rollout_back(store: OpenStore, api: StoreApi) -> None:
    await enqueue(api, "r1")
    first = await claim(api, lease=5)
    store.pass_time(6)
    second = await claim(api, lease=60)
    await add_spans(api, span(first, "late"))
    assert (await attempt_of(api, first)).status == AT_RUNNING
    rollout = await get(api, "r1")
    assert (rollout.status, rollout.latest_attempt.attempt_id) == (PREPARING, second.attempt_id)
    store.pass_time(6)
    assert (await attempt_of(api, first)).status == AT_UNRESPONSIVE
    assert await status_of(api, "r1") == PREPARING


async def test_the_shorter_of_lease_and_config_counts(store: OpenStore, api: StoreApi) -> None:
    await enqueue(api, "r1", config=config(timeout=3))
    attempt = await claim(api, lease=5)
    store.pass_time(3.1)
    assert (await attempt_of(api, attempt)).status == v1.ATTEMPT_STATUS_TIMEOUT


async def test_leases_end_by_themselves(variant: Variant) -> None:
    """Goes wrong when limits are looked at only inside other calls: a waiter waits for a dead runner for ever."""
    async with variant.open() as living:
        await enqueue(living.api, "r1")
        first = await claim(living.api, lease=1)
        response = await dequeue(living.api, wait=10)
        assert response.claims[0].attempt.sequence_id == first.sequence_id + 1
