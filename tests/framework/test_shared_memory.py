"""The shared-memory strategy: several runners in threads of one process, and runs that end whatever happens."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from processes import store_process, until
from test_client_server import run_script, wait_for

from agentlightning import (
    InMemoryLightningStore,
    LightningStore,
    LightningStoreClient,
    LightningStoreThreaded,
    LitAgent,
    LitAgentRunner,
    OtelTracer,
    Trainer,
    algo,
    emit_reward,
    get_rewards_from_span,
)
from agentlightning.execution import ExecutionEvent, SharedMemoryExecutionStrategy

Side = Callable[..., Coroutine[Any, Any, None]]


def fit(agent: LitAgent[Any], algorithm: Any, *, max_rollouts: int | None = None, **settings: Any) -> None:
    store = settings.pop("store", None)
    Trainer(
        algorithm=algorithm,
        store=store,
        runner=LitAgentRunner(OtelTracer(), max_rollouts=max_rollouts),
        strategy=SharedMemoryExecutionStrategy(**settings),
    ).fit(agent)


async def enqueue(store: Any, tasks: list[Any]) -> list[str]:
    await store.add_resources({})
    return [(await store.enqueue_rollout(task)).rollout_id for task in tasks]


@pytest.fixture(autouse=True)
def _no_thread_is_left_behind() -> Iterator[None]:
    yield
    deadline = time.monotonic() + 5
    while left := [thread.name for thread in threading.enumerate() if thread.name.startswith(("agl-run", "agl-algo"))]:
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


class InStep(LitAgent[Any]):
    """Meets three others before it goes on, so four must run at once, and emits its task in several spans."""

    def __init__(self, asynchronous: bool) -> None:
        super().__init__()
        self.meeting = threading.Barrier(4)
        self.asynchronous = asynchronous

    def is_async(self) -> bool:
        return self.asynchronous

    def rollout(self, task: Any, resources: Any, rollout: Any) -> None:
        for _ in range(5):
            emit_reward(float(task))
            self.meeting.wait(timeout=20)

    async def rollout_async(self, task: Any, resources: Any, rollout: Any) -> None:
        for _ in range(5):
            emit_reward(float(task))
            # Each runner has a loop of its own, and so may block it.
            self.meeting.wait(timeout=20)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_four_runners_work_at_once_and_their_traces_never_mix(asynchronous: bool) -> None:
    workers: set[str] = set()

    @algo
    async def algorithm(*, store: Any) -> None:
        ids = await enqueue(store, list(range(16)))
        for number, done in enumerate(await store.wait_for_rollouts(rollout_ids=ids, timeout=60)):
            assert done.status == "succeeded"
            workers.add(done.attempt.worker_id)
            spans = await store.query_spans(done.rollout_id)
            assert [get_rewards_from_span(span)[0].value for span in spans] == [float(number)] * 5
            assert {span.attempt_id for span in spans} == {done.attempt.attempt_id}

    fit(InStep(asynchronous), algorithm, n_runners=4)
    assert workers == {f"Worker-{number}" for number in range(4)}


@pytest.mark.parametrize("main_thread", ["runner", "algorithm", None])
def test_the_main_thread_is_for_the_side_that_was_asked_for(main_thread: Any) -> None:
    threads: dict[str, threading.Thread] = {}

    class Noting(LitAgent[Any]):
        async def rollout_async(self, task: Any, resources: Any, rollout: Any) -> float:
            threads["runner"] = threading.current_thread()
            return 1.0

    @algo
    async def algorithm(*, store: Any) -> None:
        threads["algorithm"] = threading.current_thread()
        await store.wait_for_rollouts(rollout_ids=await enqueue(store, [None]), timeout=60)

    fit(Noting(), algorithm, main_thread=main_thread)
    chosen = main_thread or "runner"
    assert threads.pop(chosen) is threading.main_thread()
    (other,) = threads.values()
    assert other is not threading.main_thread()


class Doing(LitAgent[Any]):
    """Does what its task says."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()
        self.released = threading.Event()

    def rollout(self, task: Any, resources: Any, rollout: Any) -> Any:
        self.begun.set()
        if task == "raise":
            raise ValueError("no idea")
        if task == "hang":
            self.released.wait(60)
        if task == "work":
            time.sleep(0.5)
        return 1.0


@pytest.mark.parametrize("n_runners", [1, 2])
def test_an_agent_that_raises_fails_its_rollout_and_not_the_run(n_runners: int) -> None:
    statuses: list[str] = []

    @algo
    async def algorithm(*, store: Any) -> None:
        ids = await enqueue(store, ["raise", "return"])
        statuses.extend(item.status for item in await store.wait_for_rollouts(rollout_ids=ids, timeout=60))

    fit(Doing(), algorithm, n_runners=n_runners)
    assert statuses == ["failed", "succeeded"]


@pytest.mark.parametrize("n_runners", [1, 2])
def test_an_error_of_the_algorithm_ends_the_run_at_once(n_runners: int) -> None:
    agent = Doing()
    store = InMemoryLightningStore()

    @algo
    async def algorithm(*, store: Any) -> None:
        await enqueue(store, ["hang"])
        await until(agent.begun.is_set)
        raise LookupError("lost the thread")

    began = time.monotonic()
    with pytest.raises(LookupError, match="lost the thread"):
        fit(agent, algorithm, n_runners=n_runners, store=store)
    agent.released.set()
    assert time.monotonic() - began < 12
    assert asyncio.run(failures(store)) == ["cancelled"]


async def failures(store: LightningStore) -> list[str | None]:
    """Returns how each rollout failed, or None."""
    found = [await store.get_latest_attempt(item.rollout_id) for item in await store.query_rollouts()]
    return [attempt.failure.kind if attempt and attempt.failure else None for attempt in found]


@pytest.mark.parametrize("n_runners", [1, 2])
def test_rollouts_at_work_at_the_end_are_finished_and_those_that_hang_are_given_up(n_runners: int) -> None:
    store = InMemoryLightningStore()
    for task in ("work", "hang"):
        agent = Doing()

        @algo
        async def algorithm(*, store: Any, agent: Doing = agent, task: str = task) -> None:
            await enqueue(store, [task])
            await until(agent.begun.is_set)

        began = time.monotonic()
        fit(agent, algorithm, n_runners=n_runners, store=store, graceful_delay=2.0)
        assert time.monotonic() - began < 15
        agent.released.set()
    assert asyncio.run(failures(store)) == [None, "cancelled"]


def test_a_runner_whose_agent_blocks_its_loop_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    class Blocking(Doing):
        async def rollout_async(self, task: Any, resources: Any, rollout: Any) -> Any:
            return self.rollout(task, resources, rollout)

    agent = Blocking()

    @algo
    async def algorithm(*, store: Any) -> None:
        await enqueue(store, ["hang"])
        await until(agent.begun.is_set)

    began = time.monotonic()
    fit(agent, algorithm, n_runners=2, graceful_delay=0.3, join_timeout=0.3)
    assert time.monotonic() - began < 10
    agent.released.set()
    assert "does not end; its thread is left behind" in caplog.text


class Clinging(Doing):
    """Does not end when it is cancelled, or leaves behind what does not."""

    async def rollout_async(self, task: Any, resources: Any, rollout: Any) -> Any:
        self.begun.set()
        if task == "thread":
            await asyncio.to_thread(self.released.wait, 60)
        if task == "blocked":
            self.released.wait(60)
        while not self.released.is_set():
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.1)


@pytest.mark.parametrize("task", ["task", "thread"])
@pytest.mark.parametrize("n_runners", [1, 2])
def test_a_run_ends_without_what_does_not(task: str, n_runners: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlightning.runner.attempt.STOP_GRACE_SECONDS", 0.2)
    monkeypatch.setattr("agentlightning.execution.event_loop.LEAVE_SECONDS", 0.2)
    agent = Clinging()

    @algo
    async def algorithm(*, store: Any) -> None:
        await enqueue(store, [task])
        await until(agent.begun.is_set)

    began = time.monotonic()
    fit(agent, algorithm, n_runners=n_runners, graceful_delay=0.3, join_timeout=2.0)
    assert time.monotonic() - began < 20
    agent.released.set()


@pytest.mark.parametrize("cause", [None, LookupError("lost the thread")])
def test_an_agent_that_blocks_the_main_thread_is_interrupted(
    cause: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentlightning.execution.shared_memory.CANCEL_SECONDS", 0.2)
    monkeypatch.setattr("agentlightning.execution.signals._INTERRUPT_SECONDS", 0.2)
    agent = Clinging()
    store = InMemoryLightningStore()

    @algo
    async def algorithm(*, store: Any) -> None:
        await enqueue(store, ["blocked"])
        await until(agent.begun.is_set)
        if cause is not None:
            raise cause

    with pytest.raises(RuntimeError, match="the agent still blocked the event loop of its runner") as caught:
        fit(agent, algorithm, store=store, graceful_delay=0.1, join_timeout=0.1)
    assert caught.value.__cause__ is cause
    assert not agent.released.is_set()
    assert asyncio.run(failures(store)) == ["cancelled"]


def execute(algorithm: Side, runner: Side, store: LightningStore | None = None, **settings: Any) -> None:
    SharedMemoryExecutionStrategy(**settings).execute(algorithm, runner, store or InMemoryLightningStore())


async def wait_until_told(store: LightningStore, event: ExecutionEvent) -> None:
    await until(event.is_set)


def test_a_runner_that_crashes_is_started_again_twice_and_then_ends_the_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    starts: list[int] = []

    async def crashing(store: LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        starts.append(worker_id)
        raise LookupError("no way")

    with pytest.raises(RuntimeError, match=r"no runner is left.*runner 0 ended with LookupError: no way") as caught:
        execute(wait_until_told, crashing)
    assert isinstance(caught.value.__cause__, LookupError)
    assert starts == [0, 0, 0]
    assert "it is started again in 1 s (1 of 2 restarts)" in caplog.text


def test_a_runner_that_was_started_again_works_on() -> None:
    starts: list[int] = []

    async def crashing_once(store: LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        starts.append(worker_id)
        if starts.count(1) == 1 == worker_id:
            raise LookupError("once")
        await until(event.is_set)

    async def until_both_work(store: LightningStore, event: ExecutionEvent) -> None:
        await until(lambda: len(starts) == 3)

    execute(until_both_work, crashing_once, n_runners=2)
    assert sorted(starts) == [0, 1, 1]


@pytest.mark.parametrize("n_runners", [1, 2])
def test_rollouts_that_nobody_is_left_to_run_end_the_run(n_runners: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlightning.execution.supervision.STALL_SECONDS", 0.5)

    @algo
    async def algorithm(*, store: Any) -> None:
        await store.wait_for_rollouts(rollout_ids=await enqueue(store, ["return"] * 4))

    with pytest.raises(RuntimeError, match=rf"{4 - n_runners} rollouts wait for a runner.*Raise max_rollouts"):
        fit(Doing(), algorithm, max_rollouts=1, n_runners=n_runners)


@pytest.mark.parametrize("n_runners", [1, 2])
def test_runners_alone_end_with_their_max_rollouts(n_runners: int) -> None:
    store = InMemoryLightningStore()
    asyncio.run(enqueue(store, ["return"] * 5))
    fit(Doing(), None, max_rollouts=2, n_runners=n_runners, store=store)
    done = asyncio.run(statuses(store))
    assert done.count("succeeded") == 2 * n_runners


async def statuses(store: LightningStore) -> list[str]:
    return [item.status for item in await store.query_rollouts()]


class OneThreadOnly(InMemoryLightningStore):
    """A store of a user's own that is not safe to use from several threads, and notes which use it."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[str] = set()

    @property
    def capabilities(self) -> Any:
        return {**super().capabilities, "thread_safe": False}

    async def enqueue_rollout(self, *args: Any, **kwargs: Any) -> Any:
        self.threads.add(threading.current_thread().name)
        return await super().enqueue_rollout(*args, **kwargs)

    async def claim_rollouts(self, *args: Any, **kwargs: Any) -> Any:
        self.threads.add(threading.current_thread().name)
        return await super().claim_rollouts(*args, **kwargs)


def test_a_store_that_is_not_thread_safe_is_used_from_one_thread() -> None:
    before = set(threading.enumerate())  # other tests may have left a store's thread
    store = OneThreadOnly()

    @algo
    async def algorithm(*, store: Any) -> None:
        assert isinstance(store, LightningStoreThreaded)
        await store.wait_for_rollouts(rollout_ids=await enqueue(store, ["return"] * 4), timeout=60)

    fit(Doing(), algorithm, n_runners=2, store=store)
    assert store.threads == {"agentlightning-store"}
    asyncio.run(
        until(
            lambda: (
                "agentlightning-store" not in {thread.name for thread in threading.enumerate() if thread not in before}
            )
        )
    )


def test_a_store_that_is_thread_safe_or_not_to_be_managed_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[LightningStore] = []

    async def noting(store: LightningStore, event: ExecutionEvent) -> None:
        seen.append(store)

    async def idle(store: LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        await until(event.is_set)

    safe, unsafe = InMemoryLightningStore(), OneThreadOnly()
    execute(noting, idle, safe)
    execute(noting, idle, unsafe, managed_store=False)
    monkeypatch.setenv("AGL_MANAGED_STORE", "off")
    execute(noting, idle, unsafe)
    assert seen == [safe, unsafe, unsafe]


def test_the_configuration_is_checked() -> None:
    assert SharedMemoryExecutionStrategy().main_thread == "runner"
    assert SharedMemoryExecutionStrategy(n_runners=2).main_thread == "algorithm"
    assert SharedMemoryExecutionStrategy.alias == "shm"
    for arguments, message in {
        (("n_runners", 0),): "at least 1",
        (("main_thread", "runner"), ("n_runners", 2)): "room for one runner, not for 2",
        (("main_thread", "agent"),): "main_thread must be",
    }.items():
        with pytest.raises(ValueError, match=message):
            SharedMemoryExecutionStrategy(**dict(arguments))  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_the_run_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    with store_process() as server:
        process = run_script("await", server.address, str(tmp_path / "mark"), "shm")
        wait_for(tmp_path / "mark", process)
        began = time.monotonic()
        os.killpg(process.pid, number)
        output, _ = process.communicate(timeout=30)
        assert time.monotonic() - began < 10
        assert process.returncode == (-number if number == signal.SIGINT else 128 + number)
        assert output.count("Traceback") == (1 if number == signal.SIGINT else 0), output
        assert asyncio.run(failures(LightningStoreClient(server.address))) == ["cancelled"]


def test_ctrl_c_twice_ends_the_run_at_once(tmp_path: Path) -> None:
    process = run_script("stuck", "", str(tmp_path / "mark"), "shm")
    wait_for(tmp_path / "mark", process)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(1.0)
    assert process.poll() is None, "it gives its runners time"
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "left behind" in output
