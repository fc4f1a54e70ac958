"""The runner: what becomes of a rollout, whatever the agent does."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from processes import until
from runners import Async, Body, Sync, finish, make_runner, ready, reward_of, run_one, running

from agentlightning import (
    LLM,
    AttemptedRollout,
    Hook,
    InMemoryLightningStore,
    LightningStore,
    LitAgent,
    PromptTemplate,
    RolloutConfig,
    Runner,
    Span,
    ThreadingEvent,
    emit_reward,
    rollout,
)
from agentlightning.runner import agent as runner_module
from agentlightning.runner.heartbeat import BEGUN_AFTER_SECONDS


@pytest.fixture
async def store() -> LightningStore:
    return await ready()


@pytest.mark.parametrize("kind", [Sync, Async])
async def test_an_agent_that_raises_fails_its_attempt_and_not_the_runner(store: LightningStore, kind: Any) -> None:
    def fail_once(task: Any) -> float:
        if task == "bad":
            emit_reward(0.25)
            raise ZeroDivisionError("division by zero")
        return 1.0

    async def fail_once_async(task: Any) -> float:
        return fail_once(task)

    body: Body = (lambda task, *_: fail_once(task)) if kind is Sync else (lambda task, *_: fail_once_async(task))
    async with running(kind(body), store):
        bad = await store.enqueue_rollout("bad")
        good = await store.enqueue_rollout("good")
        failed, succeeded = await finish(store, bad, good)
    assert failed.failure is not None
    assert (failed.failure.kind, failed.failure.message) == ("agent_error", "ZeroDivisionError: division by zero")
    assert await reward_of(store, failed) == 0.25
    assert succeeded.status == "succeeded"


async def test_an_agent_cannot_end_the_runner(store: LightningStore) -> None:
    async def leave() -> None:
        raise SystemExit(3)

    def leave_at_once(*_: Any) -> None:
        raise SystemExit(3)

    for agent in (Sync(leave_at_once), Async(lambda *_: leave())):
        attempt = await run_one(agent, store)
        assert attempt.failure is not None
        assert attempt.failure.kind == "agent_error"
        assert "SystemExit(3)" in attempt.failure.message


@pytest.mark.parametrize("error", [asyncio.CancelledError, KeyboardInterrupt])
async def test_an_agent_that_is_interrupted_has_not_succeeded(
    store: LightningStore, error: type[BaseException]
) -> None:
    def interrupt(*_: Any) -> None:
        raise error

    rollout = await store.enqueue_rollout(None)

    def run() -> None:
        runner = make_runner(max_rollouts=1)
        with runner.run_context(agent=Sync(interrupt), store=store):
            asyncio.run(runner.iter())

    # A KeyboardInterrupt reaches whoever runs the runner; a CancelledError of the agent's own ends the attempt only.
    if error is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            await asyncio.to_thread(_reraised_as_error, run)
    else:
        await asyncio.to_thread(run)
    (attempt,) = await finish(store, rollout)
    assert attempt.failure is not None
    assert attempt.failure.kind == "cancelled"
    assert attempt.failure.message == f"the agent ended with {error.__name__}"


def _reraised_as_error(run: Callable[[], None]) -> None:
    run()


async def test_modes_choose_the_method(store: LightningStore) -> None:
    class Agent(LitAgent[Any]):
        def training_rollout(self, task: Any, resources: Any, rollout: Any) -> float:
            return 1.0

        def validation_rollout(self, task: Any, resources: Any, rollout: Any) -> float:
            return 2.0

    async with running(Agent(), store):
        rollouts = [await store.enqueue_rollout(None, mode=mode) for mode in ("train", "val", "test", None)]
        attempts = await finish(store, *rollouts)
    assert [await reward_of(store, attempt) for attempt in attempts] == [1.0, 2.0, 2.0, 2.0]


async def test_plain_agents_run_beside_the_loop_and_keep_their_context(store: LightningStore) -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    ticks = 0

    class Setting(Hook):
        async def on_trace_start(self, **_: Any) -> None:
            variable.set("set by a hook")

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.01)

    def agent(*_: Any) -> float:
        time.sleep(0.3)
        emit_reward(0.5)
        return 1.0 if variable.get() == "set by a hook" else 0.0

    ticking = asyncio.create_task(tick())
    attempt = await run_one(Sync(agent), store, hooks=[Setting()])
    ticking.cancel()
    assert ticks > 10
    assert await reward_of(store, attempt) == 1.0
    assert len(await store.query_spans(attempt.rollout_id)) == 2


async def test_all_spans_are_stored_when_the_end_is_known(store: LightningStore) -> None:
    def agent(*_: Any) -> float:
        for _index in range(600):
            emit_reward(0.0)
        return 1.0

    attempt = await run_one(Sync(agent), store)
    spans = await store.query_spans(attempt.rollout_id, attempt.attempt_id)
    assert len(spans) == 601
    assert [span.sequence_id for span in spans] == list(range(1, 602))
    assert await reward_of(store, attempt) == 1.0


class LosesSpans(InMemoryLightningStore):
    """A store that takes no spans."""

    async def add_many_spans(self, spans: Sequence[Span]) -> Sequence[Span]:
        raise ConnectionError("no way through")


async def test_an_attempt_without_its_spans_has_not_succeeded() -> None:
    attempt = await run_one(Sync(lambda *_: 1.0), await ready(LosesSpans()))
    assert attempt.failure is not None
    assert attempt.failure.kind == "infrastructure"
    assert "its spans could not be stored: no way through" in attempt.failure.message


async def test_named_resources_that_do_not_exist_fail_the_attempt(store: LightningStore) -> None:
    async with running(Sync(lambda *_: 1.0), store):
        (attempt,) = await finish(store, await store.enqueue_rollout(None, resources_id="rs-none"))
    assert attempt.failure is not None
    assert attempt.failure.kind == "missing_resources"
    assert "rs-none" in attempt.failure.message


async def test_no_resources_at_all_fail_the_attempt_with_advice() -> None:
    attempt = await run_one(Sync(lambda *_: 1.0), InMemoryLightningStore())
    assert attempt.failure is not None
    assert attempt.failure.kind == "missing_resources"
    assert "store.add_resources" in attempt.failure.message


async def test_a_resource_that_the_agent_needs_and_lacks_fails_the_attempt(store: LightningStore) -> None:
    @rollout
    def agent(task: Any, llm: Any) -> float:
        return 1.0

    attempt = await run_one(agent, store)
    assert attempt.failure is not None
    assert attempt.failure.kind == "missing_resources"
    assert "needs a resource of type LLM" in attempt.failure.message


async def test_rollouts_get_their_resources_in_the_version_of_the_moment(store: LightningStore) -> None:
    def agent(_task: Any, resources: Any, _rollout: Any) -> float:
        value = float(resources["prompt"].template)
        resources["prompt"].template = "the agent may do what it likes"
        return value

    def prompt(number: int) -> dict[str, Any]:
        return {"prompt": PromptTemplate(template=str(number), engine="f-string")}

    rewards = []
    async with running(Sync(agent), store):
        await store.update_resources("rs-1", prompt(1))
        await store.update_resources("rs-2", prompt(2))
        for resources_id in ("rs-1", "rs-1", "rs-2", "rs-1"):
            (attempt,) = await finish(store, await store.enqueue_rollout(None, resources_id=resources_id))
            rewards.append(await reward_of(store, attempt))
        await store.update_resources("rs-1", prompt(3))
        (attempt,) = await finish(store, await store.enqueue_rollout(None, resources_id="rs-1"))
        rewards.append(await reward_of(store, attempt))
    assert rewards == [1.0, 1.0, 2.0, 1.0, 3.0]


async def test_a_rollout_from_before_the_first_resources_gets_the_latest() -> None:
    store = InMemoryLightningStore()
    early = await store.enqueue_rollout(None)
    assert early.resources_id is None
    await store.add_resources({"prompt": PromptTemplate(template="1", engine="f-string")})
    async with running(Sync(lambda _task, resources, _rollout: float(resources["prompt"].template)), store):
        (attempt,) = await finish(store, early)
    assert await reward_of(store, attempt) == 1.0


async def test_a_waiting_runner_takes_work_at_once_and_leaves_at_once(store: LightningStore) -> None:
    async with running(Sync(lambda *_: 1.0), store, poll_interval=30.0) as task:
        await asyncio.sleep(0.3)
        began = time.monotonic()
        await finish(store, await store.enqueue_rollout(None))
        assert time.monotonic() - began < 20
        began = time.monotonic()
    assert time.monotonic() - began < 20
    assert task.done()


async def test_max_rollouts_is_a_limit(store: LightningStore) -> None:
    rollouts = [await store.enqueue_rollout(None) for _ in range(3)]
    runner = make_runner(max_rollouts=2)
    with runner.run_context(agent=Sync(lambda *_: 1.0), store=store):
        await runner.iter()
    statuses = [rollout.status for rollout in await store.query_rollouts()]
    assert statuses == ["succeeded", "succeeded", "queuing"]
    assert len(rollouts) == 3


async def test_the_stop_event_lets_the_rollout_at_work_finish(store: LightningStore) -> None:
    begun = ThreadingEvent()

    def agent(*_: Any) -> float:
        begun.set()
        time.sleep(0.5)
        return 1.0

    first = await store.enqueue_rollout(None)
    second = await store.enqueue_rollout(None)
    async with running(Sync(agent), store):
        await until(begun.is_set)
    (attempt,) = await finish(store, first, timeout=0)
    assert attempt.status == "succeeded"
    waiting = await store.get_rollout_by_id(second.rollout_id)
    assert waiting is not None
    assert waiting.status == "queuing"


@pytest.mark.parametrize("kind", [Sync, Async])
async def test_a_runner_that_is_cancelled_reports_its_rollout_as_cancelled(store: LightningStore, kind: Any) -> None:
    begun = ThreadingEvent()
    cleaned_up = ThreadingEvent()

    def block(*_: Any) -> float:
        begun.set()
        time.sleep(1.5)
        return 1.0

    async def wait() -> float:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            cleaned_up.set()
        return 1.0

    rollout = await store.enqueue_rollout(None)
    async with running(kind(block if kind is Sync else lambda *_: wait()), store) as task:
        await until(begun.is_set)
        task.cancel()
        (attempt,) = await finish(store, rollout, timeout=1.0)
        with pytest.raises(asyncio.CancelledError):
            await task
    assert attempt.failure is not None
    assert (attempt.failure.kind, attempt.failure.message) == ("cancelled", "the runner was stopped")
    assert cleaned_up.is_set() == (kind is Async)


async def test_a_runner_that_is_cancelled_while_it_reports_keeps_its_word(
    store: LightningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SlowHook(Hook):
        def __init__(self) -> None:
            super().__init__()
            self.entered = ThreadingEvent()

        async def on_rollout_end(self, **_: Any) -> None:
            self.entered.set()
            await asyncio.sleep(0.5)

    hook = SlowHook()
    rollout = await store.enqueue_rollout(None)
    async with running(Sync(lambda *_: 1.0), store, hooks=[hook]) as task:
        await until(hook.entered.is_set)
        task.cancel()
    assert task.cancelled()
    (attempt,) = await finish(store, rollout, timeout=0)
    assert attempt.status == "succeeded"


async def test_the_store_can_stop_an_async_agent(store: LightningStore, tmp_path: Path) -> None:
    seen: list[str] = []

    async def wait(task: Any) -> float:
        if task == "quick":
            return 1.0
        seen.append("begun")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        return 1.0

    rollout = await store.enqueue_rollout("slow")
    async with running(Async(lambda task, *_: wait(task)), store, heartbeat_interval=0.2, interval_jitter=0.05):
        await until(lambda: seen)
        await store.update_rollout(rollout.rollout_id, status="cancelled")
        await until(lambda: len(seen) == 2, timeout=5)
        (attempt,) = await finish(store, await store.enqueue_rollout("quick"))
    assert seen == ["begun", "cancelled"]
    assert attempt.status == "succeeded"
    after = await store.get_rollout_by_id(rollout.rollout_id)
    assert after is not None
    assert after.status == "cancelled"


async def test_a_plain_agent_that_was_to_stop_has_not_succeeded(store: LightningStore) -> None:
    begun = ThreadingEvent()
    go_on = ThreadingEvent()

    def block(*_: Any) -> float:
        begun.set()
        go_on.wait(10)
        return 1.0

    rollout = await store.enqueue_rollout(None)
    async with running(Sync(block), store, heartbeat_interval=0.2, interval_jitter=0.05):
        await until(begun.is_set)
        await store.update_rollout(rollout.rollout_id, status="cancelled")
        await asyncio.sleep(0.6)
        go_on.set()
    (attempt,) = await store.query_attempts(rollout.rollout_id)
    assert attempt.status != "succeeded"
    failure = attempt.failure or (attempt.late_report and attempt.late_report.failure)
    assert failure
    assert failure.kind == "cancelled"


async def test_the_store_can_send_a_runner_away(store: LightningStore) -> None:
    async with running(Sync(lambda *_: 1.0), store, heartbeat_interval=0.2, poll_interval=1.0) as task:
        await finish(store, await store.enqueue_rollout(None))
        await store.update_worker("Worker-3", draining=True)
        await asyncio.wait({task}, timeout=5)
        assert task.done()
    late = await store.enqueue_rollout(None)
    assert (await store.wait_for_rollouts(rollout_ids=[late.rollout_id], timeout=0.2)) == []


@pytest.mark.parametrize("kind", ["sync", "async that blocks the loop"])
async def test_leases_are_renewed_while_an_agent_blocks(
    store: LightningStore, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "_SHORTEST_LEASE", 1.0)

    def block(*_: Any) -> float:
        time.sleep(3.0)
        return 1.0

    async def block_the_loop() -> float:
        return block()

    agent: LitAgent[Any] = Sync(block) if kind == "sync" else Async(lambda *_: block_the_loop())
    rollout = await store.enqueue_rollout(None)

    def run() -> None:
        runner = make_runner(max_rollouts=1, heartbeat_interval=0.3, interval_jitter=0.0)
        with runner.run_context(agent=agent, store=store):
            asyncio.run(runner.iter())

    await asyncio.to_thread(run)
    (attempt,) = await store.query_attempts(rollout.rollout_id)
    assert attempt.status == "succeeded"


async def test_an_attempt_without_spans_is_reported_as_running(store: LightningStore) -> None:
    go_on = ThreadingEvent()
    rollout = await store.enqueue_rollout(None)
    async with running(Sync(lambda *_: go_on.wait(10) and 1.0), store):
        await asyncio.sleep(BEGUN_AFTER_SECONDS + 0.5)
        (attempt,) = await store.query_attempts(rollout.rollout_id)
        go_on.set()
        assert attempt.status == "running"
        (attempt,) = await finish(store, rollout)
    assert attempt.status == "succeeded"
    assert attempt.late_report is None


async def test_an_attempt_that_ends_while_another_is_reported_as_running_is_not() -> None:
    reporting, ended, go_on = ThreadingEvent(), ThreadingEvent(), ThreadingEvent()

    class Slow(InMemoryLightningStore):
        async def update_attempt(self, rollout_id: str, attempt_id: Any, status: Any = None, **kwargs: Any) -> Any:
            if status == "running" and not reporting.is_set():
                reporting.set()
                await until(ended.is_set)
            return await super().update_attempt(rollout_id, attempt_id, status=status, **kwargs)

    slow = await ready(Slow())
    rollouts = [await slow.enqueue_rollout(number) for number in range(2)]
    async with running(Sync(lambda *_: go_on.wait(10) and 1.0), slow, max_concurrency=2):
        await until(reporting.is_set)
        go_on.set()
        (second,) = await finish(slow, rollouts[1])
        ended.set()
        (first,) = await finish(slow, rollouts[0])
    assert (second.status, first.status) == ("succeeded", "succeeded")
    (second,) = await slow.query_attempts(second.rollout_id)
    assert second.late_report is None


async def test_heartbeats_tell_about_the_machine(store: LightningStore) -> None:
    async with running(Sync(lambda *_: 1.0), store, heartbeat_interval=0.2):
        await asyncio.sleep(0.5)
        worker = await store.get_worker_by_id("Worker-3")
    assert worker is not None
    assert worker.heartbeat_stats is not None
    assert worker.heartbeat_stats["host"]["pid"] > 0
    assert worker.heartbeat_stats["held"] == 0


async def test_without_heartbeats_there_is_no_lease(store: LightningStore) -> None:
    assert (await run_one(Sync(lambda *_: 1.0), store, heartbeat_interval=0)).status == "succeeded"
    worker = await store.get_worker_by_id("Worker-3")
    assert worker is not None
    assert worker.heartbeat_stats is None


async def test_intervals_beyond_what_the_store_allows_are_cut(store: LightningStore) -> None:
    attempt = await run_one(Sync(lambda *_: 1.0), store, heartbeat_interval=1e6, poll_interval=1e6)
    assert attempt.status == "succeeded"


async def test_failed_attempts_are_retried_as_configured(store: LightningStore) -> None:
    tries: list[int] = []

    def agent(_task: Any, _resources: Any, rollout: AttemptedRollout) -> float:
        tries.append(rollout.attempt.sequence_id)
        if len(tries) < 3:
            raise ValueError("not yet")
        return 1.0

    config = RolloutConfig(max_attempts=3, retry_condition=["failed"])
    async with running(Sync(agent), store):
        (attempt,) = await finish(store, await store.enqueue_rollout(None, config=config))
    assert tries == [1, 2, 3]
    assert attempt.status == "succeeded"


async def test_hooks_are_called_in_order_and_cannot_harm(
    store: LightningStore, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []

    class Noting(Hook):
        async def on_rollout_start(self, *, agent: Any, runner: Any, rollout: Any) -> None:
            assert runner.get_agent() is agent
            calls.append("rollout start")

        async def on_trace_start(self, *, agent: Any, runner: Any, tracer: Any, rollout: Any) -> None:
            assert tracer.get_last_trace() == []
            calls.append("trace start")

        async def on_trace_end(self, *, agent: Any, runner: Any, tracer: Any, rollout: Any) -> None:
            calls.append(f"trace end, {len(tracer.get_last_trace())} spans")

        async def on_rollout_end(self, *, agent: Any, runner: Any, rollout: Any, spans: Any) -> None:
            assert all(span.sequence_id for span in spans)
            calls.append(f"rollout end, {len(spans)} spans")

    class Harmful(Hook):
        async def on_rollout_start(self, **_: Any) -> None:
            raise ValueError("in a hook")

        on_trace_start = on_trace_end = on_rollout_end = on_rollout_start

    def agent(*_: Any) -> float:
        calls.append("agent")
        return 1.0

    attempt = await run_one(Sync(agent), store, hooks=[Harmful(), Noting()])
    assert attempt.status == "succeeded"
    assert calls == ["rollout start", "trace start", "agent", "trace end, 1 spans", "rollout end, 1 spans"]
    assert caplog.text.count("the rollout goes on") == 4


async def test_hooks_end_what_they_began_when_the_agent_fails(store: LightningStore) -> None:
    calls: list[str] = []

    class Noting(Hook):
        async def on_trace_end(self, **_: Any) -> None:
            calls.append("trace end")

        async def on_rollout_end(self, *, spans: Any, **_: Any) -> None:
            calls.append(f"rollout end, {len(spans)} spans")

    def agent(*_: Any) -> float:
        raise ValueError

    await run_one(Sync(agent), store, hooks=[Noting()])
    assert calls == ["trace end", "rollout end, 0 spans"]


def test_deprecated_hooks_of_agents_are_pointed_out(caplog: pytest.LogCaptureFixture) -> None:
    class Old(LitAgent[Any]):
        def on_rollout_start(self, task: Any, runner: Any, tracer: Any) -> None: ...

    make_runner().init(Old())
    assert "Old.on_rollout_start is not called" in caplog.text


async def test_step_runs_one_input_and_returns_the_rollout(store: LightningStore) -> None:
    @rollout
    def agent(task: Any, llm: Any) -> float:
        return len(llm.model) + task["add"]

    runner = make_runner()
    with runner.run_context(agent=agent, store=store, worker_id=2):
        assert runner.get_worker_id() == "Worker-2"
        done = await runner.step({"add": 2}, resources={"m": LLM(endpoint="http://x", model="four")}, mode="val")
        again = await runner.step({"add": 3})
    assert isinstance(done, AttemptedRollout)
    assert (done.status, done.mode, done.attempt.worker_id) == ("succeeded", "val", "Worker-2")
    assert await reward_of(store, done.attempt) == 6.0
    assert isinstance(again, AttemptedRollout)
    assert await reward_of(store, again.attempt) == 7.0


async def test_step_raises_what_the_agent_raised_and_reports_it(store: LightningStore) -> None:
    def agent(task: Any, *_: Any) -> Any:
        if task == "raise":
            raise LookupError("lost")
        if task == "leave":
            raise SystemExit(1)
        return [Span.from_attributes(attributes={}), "text"]

    runner = make_runner()
    with runner.run_context(agent=Sync(agent), store=store):
        with pytest.raises(LookupError, match="lost"):
            await runner.step("raise")
        with pytest.raises(RuntimeError, match="tried to end the process"):
            await runner.step("leave")
        with pytest.raises(ValueError, match="mixes Span, str"):
            await runner.step("mix")
    assert {rollout.status for rollout in await store.query_rollouts()} == {"failed"}


async def test_step_without_resources_says_what_to_do() -> None:
    runner = make_runner()
    with (
        runner.run_context(agent=Sync(lambda *_: 1.0), store=InMemoryLightningStore()),
        pytest.raises(ValueError, match="the store holds no resources"),
    ):
        await runner.step(None)


async def test_step_can_be_stopped(store: LightningStore) -> None:
    event = ThreadingEvent()
    runner = make_runner()
    with runner.run_context(agent=Async(lambda *_: asyncio.sleep(60)), store=store):
        stepping = asyncio.create_task(runner.step(None, event=event))
        await asyncio.sleep(0.3)
        event.set()
        with pytest.raises(asyncio.CancelledError):
            await stepping
    (rollout,) = await store.query_rollouts()
    assert rollout.status == "failed"


async def test_runners_refuse_to_work_before_they_are_set_up(store: LightningStore) -> None:
    runner = make_runner()
    assert runner.get_worker_id() == "Worker-Unknown"
    with pytest.raises(ValueError, match="Agent has not been set"):
        runner.get_agent()
    with pytest.raises(ValueError, match="Store has not been set"):
        await runner.iter()
    with pytest.raises(RuntimeError, match="has no run"):
        runner.run()
    with runner.run_context(agent=Sync(lambda *_: 1.0), store=store) as entered:
        assert entered is runner
        assert runner.get_worker_id() == "Worker-0"
    with pytest.raises(ValueError, match="Store has not been set"):
        runner.get_store()
    with pytest.raises(NotImplementedError):
        await Runner[Any]().iter()


async def test_a_finished_rollout_is_logged_with_its_reward(
    store: LightningStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="agentlightning")
    attempt = await run_one(Sync(lambda *_: 0.75), store)
    assert f"{attempt.attempt_id} succeeded in" in caplog.text
    assert "reward 0.75" in caplog.text
