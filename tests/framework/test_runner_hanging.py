"""What a runner does about agents that do not end, and about an experiment that has not begun."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from opentelemetry import trace
from processes import until
from runners import Async, Sync, finish, make_runner, ready, running

from agentlightning import (
    InMemoryLightningStore,
    LightningStore,
    LightningStoreClient,
    LightningStoreServer,
    LitAgent,
    RolloutConfig,
    ThreadingEvent,
    emit_reward,
)
from agentlightning.runner import attempt as attempt_module

BEATS: dict[str, float] = {"heartbeat_interval": 0.2, "interval_jitter": 0.0}


@pytest.fixture
async def store() -> LightningStore:
    return await ready()


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt_module, "STOP_GRACE_SECONDS", 0.3)


class Hanging:
    """Bodies of agents that hang until they are let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.let_go = threading.Event()
        self.gone = threading.Event()

    def hang(self, task: str) -> float:
        if task != "hang":
            emit_reward(1.0, attributes={"task": task})
            return 1.0
        self.begun.set()
        self.let_go.wait(30)
        emit_reward(0.0, attributes={"task": task})
        self.gone.set()
        return 0.0

    async def ignore_cancellation(self, task: str) -> float:
        while task == "hang" and not self.let_go.is_set():
            self.begun.set()
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                continue
        return self.hang(task)

    def agent(self, kind: str) -> LitAgent[Any]:
        if kind == "sync":
            return Sync(lambda task, *_: self.hang(task))
        return Async(lambda task, *_: self.ignore_cancellation(task))


@pytest.mark.usefixtures("short_grace")
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_an_agent_that_outlives_its_time_is_left_behind(
    store: LightningStore, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    hanging = Hanging()
    async with running(hanging.agent(kind), store, **BEATS):
        stuck = await store.enqueue_rollout("hang", config=RolloutConfig(timeout_seconds=0.5))
        following = await store.enqueue_rollout("next")
        (attempt,) = await finish(store, following)
        assert attempt.status == "succeeded"
        (timed_out,) = await store.query_attempts(stuck.rollout_id)
        assert timed_out.status == "timeout"
        assert timed_out.late_report is not None
        assert timed_out.late_report.failure is not None
        assert timed_out.late_report.failure.kind == "cancelled"
        assert f"goes on with rollout {stuck.rollout_id}" in caplog.text
        assert not hanging.gone.is_set()
        hanging.let_go.set()
        assert await asyncio.to_thread(hanging.gone.wait, 20)


@pytest.mark.usefixtures("short_grace")
async def test_what_an_agent_emits_after_it_was_left_behind_reaches_no_other_rollout(store: LightningStore) -> None:
    hanging = Hanging()

    def agent(task: str, *_: Any) -> float:
        if task == "next":
            # The one that was left behind emits while this one is at work.
            hanging.let_go.set()
            hanging.gone.wait(20)
        return hanging.hang(task)

    async with running(Sync(agent), store, **BEATS):
        stuck = await store.enqueue_rollout("hang")
        await asyncio.to_thread(hanging.begun.wait, 20)
        await store.update_rollout(stuck.rollout_id, status="cancelled")
        following = await store.enqueue_rollout("next")
        await finish(store, following)
    assert [span.attributes.get("task") for span in await store.query_spans(following.rollout_id)] == ["next", None]
    assert {span.attributes.get("task") for span in await store.query_spans(stuck.rollout_id)} <= {"hang"}


@pytest.mark.usefixtures("short_grace")
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_threads_of_an_agent_that_was_left_behind_reach_no_other_rollout(
    store: LightningStore, kind: str
) -> None:
    hanging = Hanging()

    def make_span(task: str) -> None:
        with trace.get_tracer("library").start_as_current_span(task):
            pass

    def agent(task: str) -> float:
        if task == "next":
            hanging.let_go.set()
            hanging.gone.wait(20)
            return 1.0
        hanging.begun.set()
        hanging.let_go.wait(30)
        # Such threads inherit no context.
        thread = threading.Thread(target=make_span, args=(task,))
        thread.start()
        thread.join()
        hanging.gone.set()
        return 0.0

    async def ignore_cancellation(task: str) -> float:
        working = asyncio.ensure_future(asyncio.to_thread(agent, task))
        while not working.done():
            try:
                await asyncio.shield(working)
            except asyncio.CancelledError:
                continue
        return working.result()

    both = Sync(lambda task, *_: agent(task)) if kind == "sync" else Async(lambda task, *_: ignore_cancellation(task))
    async with running(both, store, **BEATS):
        stuck = await store.enqueue_rollout("hang")
        await asyncio.to_thread(hanging.begun.wait, 20)
        await store.update_rollout(stuck.rollout_id, status="cancelled")
        following = await store.enqueue_rollout("next")
        await finish(store, following)
    names = [span.name for span in await store.query_spans(following.rollout_id)]
    assert "hang" not in names
    assert len(names) == 1


async def test_an_agent_that_ends_within_the_grace_is_waited_for(
    store: LightningStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="agentlightning")
    hanging = Hanging()
    async with running(hanging.agent("sync"), store, **BEATS):
        stopped = await store.enqueue_rollout("hang")
        await asyncio.to_thread(hanging.begun.wait, 20)
        await store.update_rollout(stopped.rollout_id, status="cancelled")
        await until(lambda: f"stopping rollout {stopped.rollout_id}" in caplog.text)
        hanging.let_go.set()
        await finish(store, await store.enqueue_rollout("next"))
    (attempt,) = await store.query_attempts(stopped.rollout_id)
    assert attempt.status == "failed"
    assert attempt.failure is not None
    assert attempt.failure.kind == "cancelled"
    # What it emitted before it ended has been stored with it.
    assert len(await store.query_spans(stopped.rollout_id)) == 1
    assert "goes on with rollout" not in caplog.text


@asynccontextmanager
async def served(store: LightningStore) -> AsyncIterator[str]:
    server = LightningStoreServer(store, "127.0.0.1", 0)
    await server.start()
    try:
        yield server.endpoint
    finally:
        await server.stop()


async def test_a_runner_waits_for_an_experiment_that_nobody_has_begun(caplog: pytest.LogCaptureFixture) -> None:
    async with served(InMemoryLightningStore()) as address:
        mine = LightningStoreClient(address, experiment="ablation-7")
        theirs = LightningStoreClient(address, experiment="ablation-7")
        async with running(Sync(lambda *_: 1.0), mine, **BEATS):
            await until(lambda: "waits for an algorithm" in caplog.text)
            # Long enough for further claims and heartbeats to be refused.
            await asyncio.sleep(1.5)
            await ready(theirs)
            (attempt,) = await finish(theirs, await theirs.enqueue_rollout(None))
        await mine.close()
        await theirs.close()
    assert attempt.status == "succeeded"
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("Worker-3 waits for an algorithm to begin: Experiment ablation-7 not found")


async def test_a_runner_that_waits_for_an_experiment_leaves_when_told_to(caplog: pytest.LogCaptureFixture) -> None:
    async with served(InMemoryLightningStore()) as address:
        store = LightningStoreClient(address, experiment="never")
        runner = make_runner(**BEATS)
        event = ThreadingEvent()
        with runner.run_context(agent=Sync(lambda *_: 1.0), store=store):
            iterating = asyncio.create_task(runner.iter(event=event))
            await until(lambda: "waits for an algorithm" in caplog.text)
            event.set()
            await asyncio.wait_for(iterating, 20)
        await store.close()
