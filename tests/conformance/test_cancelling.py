from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from calls import AT_RUNNING, add_spans, beat, dequeue, enqueue, get, list_rollouts, report, span, start, statistics

from agentlightning.store.api import StoreApi


def innermost(future: asyncio.Future[Any]) -> asyncio.Future[Any]:
    """What a task waits for in the end, through all the tasks and futures in between."""
    while (inner := getattr(future, "_fut_waiter", None)) is not None:
        future = inner
    return future


async def cancelled_as_its_answer_arrives(call: Awaitable[object]) -> None:
    """Cancel a call in the very moment in which what it waits for is there, and it has not been told of it yet."""
    task = asyncio.ensure_future(call)
    for _ in range(100_000):
        if innermost(task).done():
            break
        await asyncio.sleep(0)
    was_cancelled = task.cancel()
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(outcome, asyncio.CancelledError) == was_cancelled, "the cancellation was swallowed"


async def test_a_cancelled_caller_is_cancelled_even_when_its_answer_arrives_together_with_that(api: StoreApi) -> None:
    """Goes wrong when a cancellation is lost on the way: whoever calls in a loop can never be stopped."""
    await enqueue(api, "r1")
    attempt = await start(api, "r2", worker_id="w1")
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: statistics(api),
        lambda: get(api, "r1"),
        lambda: get(api, "nobody"),
        lambda: list_rollouts(api),
        lambda: enqueue(api, "r3"),
        lambda: enqueue(api, ""),
        lambda: report(api, attempt, AT_RUNNING),
        lambda: add_spans(api, span(attempt)),
        lambda: beat(api, "w1", attempt),
        lambda: dequeue(api),
        lambda: dequeue(api, wait=0.01),
    ]
    for call in calls:
        for _ in range(3):
            await cancelled_as_its_answer_arrives(call())
    assert (await get(api, "r1")).rollout_id == "r1"
