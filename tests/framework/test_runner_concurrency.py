"""Several rollouts at once, in one runner and in several runners of one process."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace as trace_api
from processes import until
from runners import Async, Sync, finish, make_runner, ready, reward_of, running

from agentlightning import (
    ClaimedRollouts,
    InMemoryLightningStore,
    LightningStore,
    Rollout,
    Runner,
    ThreadingEvent,
    emit_reward,
    find_final_reward,
)
from agentlightning.store.errors import PermissionDenied


@pytest.fixture
async def store() -> LightningStore:
    return await ready()


async def enqueue(store: LightningStore, *tasks: Any) -> list[Rollout]:
    return [await store.enqueue_rollout(task) for task in tasks]


async def statuses(store: LightningStore) -> Counter[str]:
    return Counter(rollout.status for rollout in await store.query_rollouts())


@pytest.mark.parametrize("number", [0, -1, 1001])
def test_max_concurrency_has_bounds(number: int) -> None:
    with pytest.raises(ValueError, match="max_concurrency must be from 1 to 1000"):
        make_runner(max_concurrency=number)


async def emit_everywhere(task: str, everybody_is_here: Callable[[], Any]) -> None:
    """Emits from the agent's own task, from tasks and threads that it starts, and through OpenTelemetry."""
    emit(task, "before")
    await everybody_is_here()

    async def emit_later(index: int) -> None:
        await asyncio.sleep(0)
        emit(task, f"gathered {index}")

    await asyncio.gather(*(emit_later(index) for index in range(3)))
    await asyncio.to_thread(emit, task, "thread of the loop")
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(emit, task, "thread of the agent"))
    thread.start()
    await asyncio.to_thread(thread.join)
    with trace_api.get_tracer("test").start_as_current_span("global", attributes={"task": task, "place": "global"}):
        await asyncio.sleep(0)
        emit(task, "inside")


def emit(task: str, place: str) -> None:
    emit_reward(1.0, attributes={"task": task, "place": place})


PLACES = sorted(
    ["before", "thread of the loop", "thread of the agent", "global", "inside", *(f"gathered {n}" for n in range(3))]
)


async def test_the_spans_of_64_rollouts_at_once_are_kept_apart(store: LightningStore) -> None:
    present: list[str] = []

    async def agent(task: str) -> float:
        async def everybody_is_here() -> None:
            present.append(task)
            await until(lambda: len(present) == 64)

        await emit_everywhere(task, everybody_is_here)
        return 0.5

    rollouts = await enqueue(store, *(f"task {number}" for number in range(64)))
    async with running(Async(lambda task, *_: agent(task)), store, max_concurrency=64):
        attempts = await finish(store, *rollouts, timeout=60)
    traces = set()
    for rollout, attempt in zip(rollouts, attempts, strict=True):
        assert attempt.status == "succeeded"
        *emitted, reward = await store.query_spans(rollout.rollout_id)
        assert sorted(span.attributes["place"] for span in emitted) == PLACES
        assert {span.attributes["task"] for span in emitted} == {rollout.input}
        assert {span.attempt_id for span in emitted} == {attempt.attempt_id}
        assert find_final_reward([reward]) == 0.5
        (trace,) = {span.trace_id for span in [*emitted, reward]}
        traces.add(trace)
        inside = next(span for span in emitted if span.attributes["place"] == "inside")
        around = next(span for span in emitted if span.attributes["place"] == "global")
        assert inside.parent_id == around.span_id
    assert len(traces) == 64


async def test_plain_agents_run_at_once_each_in_a_thread_of_its_own(store: LightningStore) -> None:
    everybody_is_here = threading.Barrier(8)
    threads: set[int] = set()

    def agent(task: str, *_: Any) -> float:
        emit(task, "before")
        everybody_is_here.wait(20)
        threads.add(threading.get_ident())
        emit(task, "after")
        everybody_is_here.wait(20)
        return 0.5

    rollouts = await enqueue(store, *"abcdefgh")
    async with running(Sync(agent), store, max_concurrency=8):
        await finish(store, *rollouts)
    assert len(threads) == 8
    for rollout in rollouts:
        *emitted, _reward = await store.query_spans(rollout.rollout_id)
        assert [span.attributes["place"] for span in emitted] == ["before", "after"]
        assert {span.attributes["task"] for span in emitted} == {rollout.input}


class Gates:
    """Lets rollouts go on one by one."""

    def __init__(self) -> None:
        self.open: dict[str, asyncio.Event] = {}
        self.begun: list[str] = []

    async def __call__(self, task: str, *_: Any) -> float:
        self.begun.append(task)
        await self.open.setdefault(task, asyncio.Event()).wait()
        return 1.0

    def let_go(self, *tasks: str) -> None:
        for task in tasks:
            self.open.setdefault(task, asyncio.Event()).set()


async def test_no_more_is_claimed_than_there_are_free_slots(store: LightningStore) -> None:
    gates = Gates()
    rollouts = await enqueue(store, *"abcde")
    async with running(Async(gates), store, max_concurrency=3):
        await until(lambda: len(gates.begun) == 3)
        assert (await statuses(store))["queuing"] == 2
        gates.let_go("b")
        await until(lambda: len(gates.begun) == 4)
        assert gates.begun == ["a", "b", "c", "d"]
        assert (await statuses(store))["queuing"] == 1
        gates.let_go(*"acde")
        await finish(store, *rollouts)


async def test_a_long_rollout_does_not_hold_the_others_up(store: LightningStore) -> None:
    gates = Gates()
    gates.let_go(*"bcdef")
    long, *short = await enqueue(store, *"abcdef")
    async with running(Async(gates), store, max_concurrency=2):
        await finish(store, *short)
        assert (await store.wait_for_rollouts(rollout_ids=[long.rollout_id], timeout=0)) == []
        gates.let_go("a")
        await finish(store, long)


async def test_free_slots_wait_for_work_while_others_run(store: LightningStore) -> None:
    gates = Gates()
    async with running(Async(gates), store, max_concurrency=4, poll_interval=30.0):
        for task in "abcd":
            # Each comes into a long poll that began before it.
            await enqueue(store, task)
            await until(lambda task=task: gates.begun[-1:] == [task])
        gates.let_go(*"abcd")
    assert await statuses(store) == {"succeeded": 4}


async def test_max_rollouts_is_a_limit_for_all_slots_together(store: LightningStore) -> None:
    await enqueue(store, *range(8))
    runner = make_runner(max_rollouts=5, max_concurrency=3)
    with runner.run_context(agent=Async(lambda *_: asyncio.sleep(0, 1.0)), store=store):
        await runner.iter()
    assert await statuses(store) == {"succeeded": 5, "queuing": 3}


class CountingStore(InMemoryLightningStore):
    """Notes the calls that a runner makes for a rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    async def claim_rollouts(self, **arguments: Any) -> ClaimedRollouts:
        claimed = await super().claim_rollouts(**arguments)
        self.calls.append(f"claim {len(claimed.rollouts)} of {arguments['limit']}")
        return claimed

    async def add_many_spans(self, spans: Any) -> Any:
        self.calls.append(f"add {len(spans)} spans")
        return await super().add_many_spans(spans)

    async def update_attempt(self, rollout_id: str, attempt_id: str, *args: Any, **kwargs: Any) -> Any:
        self.calls.append(f"report {kwargs.get('status')}")
        return await super().update_attempt(rollout_id, attempt_id, *args, **kwargs)


@pytest.mark.parametrize(
    ("slots", "claims"),
    [(1, ["claim 1 of 1"] * 2), (2, ["claim 2 of 2"])],
)
async def test_a_short_rollout_costs_one_batch_of_spans_and_one_report(slots: int, claims: list[str]) -> None:
    store = CountingStore()
    await ready(store)
    await enqueue(store, "a", "b")
    runner = make_runner(max_rollouts=2, max_concurrency=slots)
    with runner.run_context(agent=Sync(lambda *_: 1.0), store=store):
        await runner.iter()
    assert sorted(store.calls) == sorted([*claims, *["add 1 spans", "report succeeded"] * 2])


class InterruptsAClaim(InMemoryLightningStore):
    """Does something at the moment at which a claim for more than one rollout has been granted."""

    interrupt: Callable[[], Any]

    async def claim_rollouts(self, **arguments: Any) -> ClaimedRollouts:
        claimed = await super().claim_rollouts(**arguments)
        if claimed.rollouts:
            self.interrupt()
        return claimed


@pytest.mark.parametrize("how", ["stop", "cancel"])
async def test_what_was_claimed_when_the_runner_is_to_leave_goes_back(how: str) -> None:
    store = InterruptsAClaim()
    await ready(store)
    rollouts = await enqueue(store, "a", "b")
    event = ThreadingEvent()
    runner = make_runner(max_concurrency=2)
    with runner.run_context(agent=Sync(lambda *_: 1.0), store=store):
        iterating = asyncio.create_task(runner.iter(event=event))
        store.interrupt = event.set if how == "stop" else iterating.cancel
        await asyncio.wait({iterating}, timeout=20)
    assert iterating.done()
    assert iterating.cancelled() == (how == "cancel")
    for rollout in rollouts:
        after = await store.get_rollout_by_id(rollout.rollout_id)
        assert after is not None
        assert after.status == "queuing"


async def until_there_are(store: LightningStore, number: int, status: str) -> None:
    while (await statuses(store))[status] != number:  # noqa: ASYNC110
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("how", ["stop", "drain"])
async def test_when_told_to_leave_all_that_runs_may_finish(store: LightningStore, how: str) -> None:
    gates = Gates()
    event = ThreadingEvent()
    runner = make_runner(max_concurrency=3, heartbeat_interval=0.2)
    with runner.run_context(agent=Async(gates), store=store):
        iterating = asyncio.create_task(runner.iter(event=event))
        await enqueue(store, "a", "b")
        await until(lambda: len(gates.begun) == 2)
        if how == "stop":
            event.set()
        else:
            await store.update_worker("Worker-0", draining=True)
        gates.let_go("a")
        await until_there_are(store, 1, "succeeded")
        assert not iterating.done()
        await enqueue(store, "c")
        gates.let_go("b", "c")
        await iterating
    assert await statuses(store) == {"succeeded": 2, "queuing": 1}


async def test_a_runner_that_is_cancelled_reports_all_its_rollouts_as_cancelled(store: LightningStore) -> None:
    gates = Gates()
    gates.let_go("c")
    rollouts = await enqueue(store, *"abcd")
    runner = make_runner(max_concurrency=3)
    with runner.run_context(agent=Async(gates), store=store):
        iterating = asyncio.create_task(runner.iter())
        await until(lambda: len(gates.begun) == 4)
        await until_there_are(store, 1, "succeeded")
        iterating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await iterating
    attempts = await finish(store, *rollouts, timeout=0)
    assert [attempt.failure and attempt.failure.kind for attempt in attempts] == [
        "cancelled",
        "cancelled",
        None,
        "cancelled",
    ]


async def test_an_interrupt_in_one_rollout_cancels_the_others(store: LightningStore) -> None:
    begun = ThreadingEvent()

    async def agent(task: str, *_: Any) -> float:
        if task == "interrupt":
            await until(begun.is_set)
            raise KeyboardInterrupt
        begun.set()
        await asyncio.sleep(60)
        return 1.0

    rollouts = await enqueue(store, "wait", "interrupt")

    def run() -> None:
        runner = make_runner(max_concurrency=2)
        with runner.run_context(agent=Async(agent), store=store):
            asyncio.run(runner.iter())

    with pytest.raises(KeyboardInterrupt):
        await asyncio.to_thread(run)
    waited, interrupted = await finish(store, *rollouts, timeout=0)
    assert waited.failure is not None
    assert (waited.failure.kind, waited.failure.message) == ("cancelled", "the runner was stopped")
    assert interrupted.failure is not None
    assert interrupted.failure.message == "the agent ended with KeyboardInterrupt"


async def test_an_agent_that_raises_does_not_disturb_the_others(store: LightningStore) -> None:
    gates = Gates()

    async def agent(task: str, *_: Any) -> float:
        if task == "raise":
            raise ValueError("here")
        return await gates(task)

    *waiting, raising = await enqueue(store, "a", "b", "raise")
    async with running(Async(agent), store, max_concurrency=3):
        (failed,) = await finish(store, raising)
        gates.let_go("a", "b")
        attempts = await finish(store, *waiting)
    assert failed.status == "failed"
    assert [attempt.status for attempt in attempts] == ["succeeded", "succeeded"]


class RefusesTheSecondClaim(InMemoryLightningStore):
    """A store that takes its permission back."""

    refused = False

    async def claim_rollouts(self, **arguments: Any) -> ClaimedRollouts:
        if arguments["limit"] < 2:
            self.refused = True
            raise PermissionDenied("not any more", reason="PERMISSION_DENIED")
        return await super().claim_rollouts(**arguments)


async def test_a_store_that_refuses_ends_the_runner_when_its_rollouts_have_ended() -> None:
    store = RefusesTheSecondClaim()
    await ready(store)
    gates = Gates()
    (rollout,) = await enqueue(store, "a")
    runner = make_runner(max_concurrency=2)
    with runner.run_context(agent=Async(gates), store=store):
        iterating = asyncio.create_task(runner.iter())
        await until(lambda: store.refused)
        gates.let_go("a")
        with pytest.raises(PermissionDenied):
            await iterating
    (attempt,) = await finish(store, rollout, timeout=0)
    assert attempt.status == "succeeded"


def test_runners_of_one_process_share_nothing_that_is_set_up(store: LightningStore) -> None:
    begun = threading.Barrier(4)

    def agent(task: str, *_: Any) -> float:
        emit(task, "before")
        begun.wait(20)
        emit(task, "after")
        return 0.5

    model = make_runner(max_rollouts=2)
    agent_of_all = Sync(agent)

    def run(worker_id: int) -> None:
        runner = model.for_worker()
        with runner.run_context(agent=agent_of_all, store=store, worker_id=worker_id):
            asyncio.run(runner.iter())

    async def prepare() -> list[Rollout]:
        return await enqueue(store, *"abcdefgh")

    rollouts = asyncio.run(prepare())
    threads = [threading.Thread(target=run, args=(worker_id,)) for worker_id in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    async def check() -> None:
        workers = set()
        for rollout, attempt in zip(rollouts, await finish(store, *rollouts, timeout=0), strict=True):
            workers.add(attempt.worker_id)
            *emitted, _reward = await store.query_spans(rollout.rollout_id)
            assert [span.attributes["place"] for span in emitted] == ["before", "after"]
            assert {span.attributes["task"] for span in emitted} == {rollout.input}
        assert workers == {f"Worker-{number}" for number in range(4)}

    asyncio.run(check())


async def test_a_copy_of_a_runner_at_work_starts_afresh(store: LightningStore) -> None:
    runner = make_runner(max_rollouts=1)
    with runner.run_context(agent=Sync(lambda *_: 1.0), store=store, worker_id=1):
        worker = runner.for_worker()
        assert type(worker) is type(runner)
        assert worker.tracer is not runner.tracer
        assert worker.get_worker_id() == "Worker-Unknown"
        with pytest.raises(ValueError, match="Agent has not been set"):
            worker.get_agent()
        with worker.run_context(agent=Sync(lambda *_: 0.5), store=store, worker_id=2):
            (rollout,) = await enqueue(store, None)
            await worker.iter()
        assert runner.get_worker_id() == "Worker-1"
    (attempt,) = await finish(store, rollout, timeout=0)
    assert attempt.worker_id == "Worker-2"
    assert await reward_of(store, attempt) == 0.5


def test_runners_of_other_kinds_are_copied_for_each_worker() -> None:
    class Own(Runner[Any]):
        settings: Any

    runner = Own()
    runner.settings = {"a": 1}
    worker = runner.for_worker()
    assert isinstance(worker, Own)
    assert worker is not runner
    assert worker.settings is runner.settings
