"""Agents made of functions, and runners that run them for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from agentlightning import (
    Attempt,
    AttemptedRollout,
    Hook,
    InMemoryLightningStore,
    LightningStore,
    LitAgent,
    LitAgentRunner,
    OtelTracer,
    Rollout,
    ThreadingEvent,
    find_final_reward,
)

Body = Callable[[Any, Any, AttemptedRollout], Any]


class Sync(LitAgent[Any]):
    """A plain agent that does what a function does."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.body = body

    def rollout(self, task: Any, resources: Any, rollout: Any) -> Any:
        return self.body(task, resources, rollout)


class Async(LitAgent[Any]):
    """An async agent that awaits what a function returns."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.body = body

    async def rollout_async(self, task: Any, resources: Any, rollout: Any) -> Any:
        return await self.body(task, resources, rollout)


async def ready(store: LightningStore | None = None) -> LightningStore:
    """Returns a store, one in memory unless given, that agents without resources can be run from."""
    store = store or InMemoryLightningStore()
    await store.add_resources({})
    return store


def make_runner(**arguments: Any) -> LitAgentRunner[Any]:
    return LitAgentRunner(OtelTracer(), **arguments)


@asynccontextmanager
async def running(
    agent: LitAgent[Any], store: LightningStore, *, hooks: Sequence[Hook] = (), **arguments: Any
) -> AsyncIterator[asyncio.Task[None]]:
    """Has a runner take rollouts during the block."""
    runner = make_runner(**arguments)
    event = ThreadingEvent()
    with runner.run_context(agent=agent, store=store, hooks=hooks, worker_id=3):
        task = asyncio.create_task(runner.iter(event=event))
        try:
            yield task
        finally:
            event.set()
            await asyncio.wait({task}, timeout=20)
            assert task.done()
    if not task.cancelled():
        task.result()


async def finish(store: LightningStore, *rollouts: Rollout, timeout: float = 20) -> list[Attempt]:
    """Waits for rollouts and returns their latest attempts."""
    ids = [rollout.rollout_id for rollout in rollouts]
    done = await store.wait_for_rollouts(rollout_ids=ids, timeout=timeout)
    assert len(done) == len(ids)
    attempts = []
    for item in done:
        assert isinstance(item, AttemptedRollout)
        assert item.status == item.attempt.status
        attempts.append(item.attempt)
    return attempts


async def run_one(
    agent: LitAgent[Any], store: LightningStore, input: Any = None, *, hooks: Sequence[Hook] = (), **arguments: Any
) -> Attempt:
    """Has a runner run one rollout and returns its attempt."""
    rollout = await store.enqueue_rollout(input)
    runner = make_runner(max_rollouts=1, **arguments)
    with runner.run_context(agent=agent, store=store, hooks=hooks, worker_id=3):
        await runner.iter()
    (attempt,) = await finish(store, rollout, timeout=0)
    return attempt


async def reward_of(store: LightningStore, attempt: Attempt) -> float | None:
    return find_final_reward(await store.query_spans(attempt.rollout_id, attempt.attempt_id))
