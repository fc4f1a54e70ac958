from __future__ import annotations

import pytest
from calls import (
    AT_SUCCEEDED,
    CANCELLED,
    HERE,
    QUEUING,
    SUCCEEDED,
    add_spans,
    attempts,
    beat,
    claim,
    claimed_ids,
    config,
    context,
    delete,
    dequeue,
    enqueue,
    fail,
    finish,
    get,
    ids,
    payload,
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
from stores import DAY, OpenStore

from agentlightning.store.api import StoreApi
from agentlightning.store.errors import AlreadyExists, InvalidArgument, NotFound
from lightning_store import v1


async def delete_by(api: StoreApi, **selectors: object) -> v1.DeleteRolloutsResponse:
    return await api.delete_rollouts(HERE, v1.DeleteRolloutsRequest(**selectors))


async def test_a_deleted_rollout_is_gone_with_its_attempts_and_spans(api: StoreApi) -> None:
    """Goes wrong when nothing can be deleted: a store that lives long grows without end."""
    attempt = await start(api, "r1")
    await add_spans(api, span(attempt))
    await enqueue(api, "r2")
    assert await delete(api, "r1") == ["r1"]
    with refused(NotFound, "ROLLOUT_NOT_FOUND"):
        await get(api, "r1")
    assert await attempts(api, "r1") == []
    assert await spans(api, "r1") == []
    assert await ids(api) == ["r2"]
    totals = await statistics(api)
    assert (totals.total_rollouts, totals.total_attempts, totals.total_spans) == (1, 0, 0)


async def test_ids_that_do_not_exist_are_left_out(api: StoreApi) -> None:
    await enqueue(api, "r1", "r2")
    assert await delete(api, "r1", "nobody", "r1") == ["r1"]
    assert await delete(api, "nobody") == []


async def test_nothing_is_deleted_without_a_selector(api: StoreApi) -> None:
    """Goes wrong when a forgotten argument deletes everything."""
    await enqueue(api, "r1")
    with refused(InvalidArgument, "SELECTOR_REQUIRED"):
        await delete_by(api)
    with refused(InvalidArgument, "SELECTOR_REQUIRED"):
        await delete_by(api, limit=5)
    assert not (await delete_by(api, rollout_id_in=v1.StringSet())).deleted_rollout_ids
    assert not (await delete_by(api, status_in=v1.RolloutStatusSet())).deleted_rollout_ids
    assert await ids(api) == ["r1"]


async def test_with_both_selectors_a_rollout_must_match_both(api: StoreApi) -> None:
    await enqueue(api, "r1", "r2", "r3")
    await finish(api, "r1", "r2")
    selectors = {
        "rollout_id_in": v1.StringSet(values=["r2", "r3"]),
        "status_in": v1.RolloutStatusSet(values=[SUCCEEDED]),
    }
    assert list((await delete_by(api, **selectors)).deleted_rollout_ids) == ["r2"]
    assert await ids(api) == ["r1", "r3"]


async def test_a_caller_may_delete_in_portions(api: StoreApi) -> None:
    await enqueue(api, *[f"r{number}" for number in range(5)])
    queuing = v1.RolloutStatusSet(values=[QUEUING])
    first = await delete_by(api, status_in=queuing, limit=2)
    assert (len(first.deleted_rollout_ids), first.remaining) == (2, True)
    second = await delete_by(api, status_in=queuing, limit=3)
    assert (len(second.deleted_rollout_ids), second.remaining) == (3, False)
    assert await ids(api) == []


@pytest.mark.parametrize("limit", [0, 5000])
async def test_a_call_deletes_a_thousand_at_most(api: StoreApi, limit: int) -> None:
    await enqueue(api, *[f"r{number}" for number in range(1000)])
    await enqueue(api, "one-more")
    response = await delete_by(api, status_in=v1.RolloutStatusSet(values=[QUEUING]), limit=limit)
    assert (len(response.deleted_rollout_ids), response.remaining) == (1000, True)


async def test_a_deleted_rollout_is_not_handed_out(api: StoreApi) -> None:
    await enqueue(api, "r1", "r2")
    await delete(api, "r1")
    assert await queue(api) == ["r2"]


async def test_a_deleted_id_cannot_be_used_again_while_it_is_remembered(store: OpenStore, api: StoreApi) -> None:
    """Goes wrong when a create that is sent again after a deletion brings the deleted rollout back."""
    await enqueue(api, "r1", input=payload(1))
    await delete(api, "r1")
    for _ in range(2):
        with refused(AlreadyExists, "ROLLOUT_EXISTS"):
            await enqueue(api, "r1", input=payload(1))
        with refused(AlreadyExists, "ROLLOUT_EXISTS"):
            await start(api, "r1")
        store.pass_time(DAY / 2 - 1)
    store.pass_time(3)
    assert [rollout.rollout_id for rollout in await enqueue(api, "r1", input=payload(1))] == ["r1"]
    assert (await api.enqueue_rollouts(context("other"), v1.EnqueueRolloutsRequest())).rollouts == []


async def test_whoever_works_on_a_deleted_rollout_is_told(api: StoreApi) -> None:
    attempt = await start(api, "r1", worker_id="w1")
    await delete(api, "r1")
    for call in (
        lambda: report(api, attempt, AT_SUCCEEDED),
        lambda: add_spans(api, span(attempt)),
        lambda: start_attempt(api, "r1"),
        lambda: update(api, "r1", status=CANCELLED),
    ):
        with refused(NotFound, "ROLLOUT_NOT_FOUND"):
            await call()
    (command,) = (await beat(api, "w1", attempt)).commands
    assert command.cancel_attempt.attempt_id == attempt.attempt_id


async def test_limits_of_deleted_attempts_are_forgotten(store: OpenStore, api: StoreApi) -> None:
    await start(api, "r1", config=config(timeout=5), lease=3)
    await delete(api, "r1")
    store.pass_time(10)
    assert await ids(api) == []


async def test_a_claim_whose_rollout_was_deleted_claims_anew(api: StoreApi) -> None:
    await enqueue(api, "r1", "r2", "r3")
    await dequeue(api, 2, claim_id="c1")
    await delete(api, "r1")
    assert claimed_ids(await dequeue(api, 2, claim_id="c1")) == ["r2"]
    await delete(api, "r2")
    assert claimed_ids(await dequeue(api, 2, claim_id="c1")) == ["r3"]


async def test_everything_may_be_deleted_whatever_its_state(api: StoreApi) -> None:
    await enqueue(
        api, "queued", "requeued", "failed", config=config(max_attempts=2, retry_on=[v1.ATTEMPT_STATUS_FAILED])
    )
    await fail(api, await start_attempt(api, "requeued"))
    await fail(api, await start_attempt(api, "failed"))
    await fail(api, await start_attempt(api, "failed"))
    running = await start(api, "running", worker_id="w1")
    await add_spans(api, span(running))
    every = v1.RolloutStatusSet(values=[status for status in v1.RolloutStatus.values() if status])
    assert len((await delete_by(api, status_in=every)).deleted_rollout_ids) == 4
    assert (await statistics(api)).total_rollouts == 0
    await enqueue(api, "next")
    assert (await claim(api)).rollout_id == "next"


async def test_totals_are_right_when_an_attempt_of_a_deleted_rollout_was_handed_back(api: StoreApi) -> None:
    first = await start(api, "r1")
    await start_attempt(api, "r1")
    assert await release(api, first)
    assert (await statistics(api)).total_attempts == 1
    await delete(api, "r1")
    assert (await statistics(api)).total_attempts == 0
