"""The trainer: what it accepts, and what it hands to whom."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
import threading
from typing import Any

import pytest
import sample_agents
from opentelemetry import trace

from agentlightning import (
    Algorithm,
    AttemptedRollout,
    ClientServerExecutionStrategy,
    ExecutionStrategy,
    Hook,
    InMemoryLightningStore,
    LightningStore,
    LitAgent,
    LitAgentRunner,
    OtelTracer,
    PromptTemplate,
    ThreadingEvent,
    Trainer,
    algo,
    prompt_rollout,
)
from agentlightning.adapter.triplet import TracerTraceToTriplet
from agentlightning.algorithm import Baseline
from agentlightning.client import DevTaskLoader
from agentlightning.execution.shared_memory import SharedMemoryExecutionStrategy


class Counting:
    """An adapter."""

    def adapt(self, spans: Any) -> int:
        return len(spans)


PROMPT: Any = {"prompt": PromptTemplate(template="Hello", engine="f-string")}


class Recording(ExecutionStrategy):
    """A strategy that only notes what it is given."""

    def execute(self, algorithm: Any, runner: Any, store: Any) -> None:
        self.given = (algorithm, runner, store)


def test_defaults() -> None:
    trainer = Trainer()
    assert isinstance(trainer.strategy, ClientServerExecutionStrategy)
    assert isinstance(trainer.store, InMemoryLightningStore)
    assert isinstance(trainer.runner, LitAgentRunner)
    assert isinstance(trainer.tracer, OtelTracer)
    assert trainer.runner.tracer is trainer.tracer
    assert isinstance(trainer.adapter, TracerTraceToTriplet)
    assert trainer.store is trainer.store
    assert (trainer.algorithm, trainer.llm_proxy, trainer.initial_resources, trainer.progress) == (None,) * 4
    assert (trainer.n_runners, trainer.max_rollouts, list(trainer.hooks)) == (1, None, [])


def test_parts_are_taken_as_they_are() -> None:
    store, tracer, hook = InMemoryLightningStore(), OtelTracer(), Hook()
    runner: LitAgentRunner[Any] = LitAgentRunner(tracer)
    strategy = Recording()
    trainer = Trainer(
        store=store,
        tracer=tracer,
        runner=runner,
        strategy=strategy,
        hooks=hook,
        algorithm=sample_agents.named_algorithm,
        n_runners=3,
    )
    trainer.fit(sample_agents.greet)
    assert (trainer.store, trainer.tracer, trainer.runner) == (store, tracer, runner)
    assert list(trainer.hooks) == [hook]
    assert strategy.given[2] is store
    assert sample_agents.greet.get_trainer() is trainer


def test_the_strategy_can_be_named() -> None:
    strategy = Trainer(strategy="cs", n_runners=2, port=1234).strategy
    assert isinstance(strategy, ClientServerExecutionStrategy)
    assert (strategy.n_runners, strategy.server_port) == (2, 1234)
    with pytest.raises(ValueError, match="strategy 'moon' is not known: it may be 'cs', 'shm' or an import path"):
        Trainer(strategy="moon")
    shared = Trainer(strategy="shm", n_runners=2).strategy
    assert isinstance(shared, SharedMemoryExecutionStrategy)
    assert shared.n_runners == 2


PARTS = ["store", "tracer", "runner", "algorithm", "strategy", "adapter", "llm_proxy"]


@pytest.mark.parametrize("part", PARTS)
def test_parts_of_the_wrong_type_are_refused(part: str) -> None:
    with pytest.raises(ValueError, match=f"{part} must be a .*, its class, a function .* not object"):
        Trainer(**{part: object()})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=f"{part} must be an instance of .*, not of OrderedDict"):
        Trainer(**{part: "collections.OrderedDict"})  # type: ignore[arg-type]


class Own(LitAgentRunner[Any]):
    def __init__(self, *args: Any, extra: int = 1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.extra = extra


class OwnProxy:
    def __init__(self, store: Any = None, port: int = 0) -> None:
        self.store = store
        self.port = port

    def set_store(self, store: Any) -> None:
        self.store = store


def test_parts_may_be_given_as_specs() -> None:
    here = "test_trainer"
    trainer = Trainer(
        n_runners=2,
        max_rollouts=7,
        algorithm="agentlightning.algorithm.fast.Baseline",
        tracer=OtelTracer,
        adapter={"agent_match": "planner"},
        store=lambda: InMemoryLightningStore(),
        runner={"type": f"{here}.Own", "extra": 5},
        strategy={"type": "cs", "graceful_timeout": 3.0},
        llm_proxy={"type": f"{here}.OwnProxy", "port": 9},
        port=4321,
    )
    assert isinstance(trainer.algorithm, Baseline)
    assert isinstance(trainer.adapter, TracerTraceToTriplet)
    assert trainer.adapter.agent_match == "planner"
    assert isinstance(trainer.runner, Own)
    assert trainer.runner.extra == 5
    # What the trainer has for a part goes there, through **kwargs too.
    assert trainer.runner.tracer is trainer.tracer
    assert trainer.runner._max_rollouts == 7  # noqa: SLF001
    assert isinstance(trainer.strategy, ClientServerExecutionStrategy)
    strategy = trainer.strategy
    assert (strategy.graceful_timeout, strategy.n_runners, strategy.server_port) == (3.0, 2, 4321)
    assert trainer.llm_proxy is not None
    assert (trainer.llm_proxy.port, trainer.llm_proxy.store) == (9, trainer.store)


def test_a_path_may_lead_to_a_decorated_algorithm() -> None:
    assert Trainer(algorithm="sample_agents.named_algorithm").algorithm is sample_agents.named_algorithm


def test_no_runners_are_refused() -> None:
    with pytest.raises(ValueError, match="n_runners must be at least 1, not 0"):
        Trainer(n_runners=0)


def test_a_trainer_loads_no_store_and_no_adapter_before_it_needs_them() -> None:
    code = """
import sys
from agentlightning import Trainer
trainer = Trainer(n_runners=2)
heavy = ("grpc", "sqlite3", "agentlightning.adapter", "agentlightning.store.engine")
loaded = [name for name in heavy if name in sys.modules]
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_old_names_warn_and_work() -> None:
    with pytest.warns(DeprecationWarning, match=r"Trainer\(n_workers=\.\.\.\) is deprecated") as caught:
        trainer = Trainer(n_workers=2)
    assert caught[0].filename == __file__
    assert trainer.n_runners == 2
    with pytest.warns(DeprecationWarning, match="max_rollouts"):
        assert Trainer(max_tasks=5).max_rollouts == 5
    adapter = Counting()
    with pytest.warns(DeprecationWarning, match="adapter"):
        assert Trainer(triplet_exporter=adapter).adapter is adapter
    with pytest.warns(DeprecationWarning, match=r"\.dev\(") as caught:
        Trainer(dev=True)
    assert caught[0].filename == __file__


def test_fit_refuses_what_is_no_agent() -> None:
    with pytest.raises(TypeError, match="not a function"):
        Trainer(strategy=Recording()).fit(lambda task, llm: 1.0)  # type: ignore[arg-type]


def test_fit_refuses_agents_of_release_0_1() -> None:
    class Old(LitAgent[Any]):
        def rollout(self, task: Any, rollout_id: str, resources: Any) -> float:  # type: ignore[override]
            return 1.0

    with pytest.raises(TypeError, match=r"Old\.rollout is one of release 0\.1.*legacy server"):
        Trainer(strategy=Recording()).fit(Old(), [1])


def test_fit_takes_its_tasks_from_a_legacy_server() -> None:
    with pytest.warns(DeprecationWarning, match=r"Trainer\.dev"):
        tasks = DevTaskLoader(["a", "b"], PROMPT)
    with pytest.warns(DeprecationWarning, match="fit with a legacy server is deprecated") as caught:
        Trainer(max_rollouts=2).fit(one, tasks)
    assert [warning.filename for warning in caught] == [__file__]
    assert [report.final_reward for report in tasks.rollouts] == [1.0, 1.0]


async def test_fit_refuses_to_block_a_running_loop() -> None:
    with pytest.raises(RuntimeError, match=r"asyncio\.to_thread"):
        Trainer(strategy=Recording()).fit(sample_agents.greet)


async def test_the_algorithm_gets_all_that_the_trainer_has() -> None:
    class Proxy:
        def set_store(self, store: Any) -> None:
            self.store = store

    class Noting(Algorithm):
        async def run(self, train_dataset: Any = None, val_dataset: Any = None) -> None:
            self.seen = (train_dataset, val_dataset)

    algorithm, proxy, adapter = Noting(), Proxy(), Counting()
    resources: Any = {}
    trainer = Trainer(algorithm=algorithm, llm_proxy=proxy, adapter=adapter, initial_resources=resources)
    await trainer._algorithm_bundle(trainer.store, ThreadingEvent(), [1], [2], algorithm)  # noqa: SLF001
    assert algorithm.seen == ([1], [2])
    assert algorithm.get_store() is proxy.store is trainer.store
    assert algorithm.get_adapter() is adapter
    assert algorithm.get_llm_proxy() is proxy
    assert algorithm.get_initial_resources() is resources
    assert algorithm.get_trainer() is trainer


async def test_plain_algorithms_run_beside_the_loop() -> None:
    @algo
    def algorithm() -> None:
        threads.append(threading.current_thread())

    threads: list[threading.Thread] = []
    trainer = Trainer(algorithm=algorithm)
    await trainer._algorithm_bundle(trainer.store, ThreadingEvent(), None, None, algorithm)  # noqa: SLF001
    assert threads[0] is not threading.current_thread()


async def test_the_runner_side_runs_a_runner_until_the_event() -> None:
    trainer = Trainer()
    await trainer.store.add_resources({})
    rollout = await trainer.store.enqueue_rollout({"do": "reward", "value": 1})
    event = ThreadingEvent()

    class StopAfterOne(Hook):
        async def on_rollout_end(self, *, agent: Any, **_: Any) -> None:
            assert agent.get_trainer() is trainer
            assert agent.tracer is agent.get_runner().tracer
            event.set()

    trainer.hooks = [StopAfterOne()]
    await trainer._runner_bundle(trainer.store, 0, event, sample_agents.Echo())  # noqa: SLF001
    done = await trainer.store.get_rollout_by_id(rollout.rollout_id)
    assert done is not None
    assert done.status == "succeeded"


def test_a_trainer_travels_without_the_algorithms_side() -> None:
    trainer = Trainer(algorithm=sample_agents.named_algorithm, n_runners=2, max_rollouts=3, adapter=Counting())
    copy = pickle.loads(pickle.dumps(trainer))
    assert (copy.n_runners, copy.max_rollouts) == (2, 3)
    assert isinstance(copy.runner, LitAgentRunner)
    assert (copy.algorithm, copy.store, copy.adapter, copy.strategy) == (None,) * 4


def test_the_algorithms_side_travels_whole() -> None:
    strategy = Recording()
    trainer = Trainer(strategy=strategy, algorithm=sample_agents.named_algorithm, adapter=Counting(), n_runners=2)
    trainer.initial_resources = {}
    trainer.fit(sample_agents.greet, [1])
    side = pickle.loads(pickle.dumps(strategy.given[0]))
    copy = side._trainer  # noqa: SLF001
    assert copy is not trainer
    assert copy.algorithm is sample_agents.named_algorithm
    assert isinstance(copy.adapter, Counting)
    assert (copy.initial_resources, copy.n_runners) == ({}, 2)
    # A default is made over there.
    trainer = Trainer(strategy=strategy, algorithm=sample_agents.named_algorithm)
    trainer.fit(sample_agents.greet, [1])
    side = pickle.loads(pickle.dumps(strategy.given[0]))
    assert isinstance(side._trainer.adapter, TracerTraceToTriplet)  # noqa: SLF001


@prompt_rollout
def one(task: Any, prompt_template: Any) -> float:
    return 1.0


def fit(algorithm: Any, *datasets: Any) -> LightningStore:
    """Fits with one runner in this process; returns the store."""
    trainer = Trainer(algorithm=algorithm, strategy="shm", store=InMemoryLightningStore())
    trainer.fit(one, *datasets)
    return trainer.store


def test_a_plain_algorithm_needs_no_await() -> None:
    @algo
    def batching_algorithm(*, store, train_dataset, val_dataset):  # type: ignore[no-untyped-def]
        for sample in train_dataset:
            store.enqueue_rollout(input=sample, mode="train")

    store = fit(batching_algorithm, ["a", "b"])
    rollouts = asyncio.run(store.query_rollouts())  # type: ignore[arg-type]
    assert [(rollout.input, rollout.mode) for rollout in rollouts] == [("a", "train"), ("b", "train")]


def test_an_async_algorithm_awaits() -> None:
    @algo
    async def async_algorithm(*, store, train_dataset=None, val_dataset=None):  # type: ignore[no-untyped-def]
        await store.enqueue_rollout(input={"prompt": "hello"}, mode="train")

    store = fit(async_algorithm)
    (rollout,) = asyncio.run(store.query_rollouts())  # type: ignore[arg-type]
    assert rollout.input == {"prompt": "hello"}


def test_a_plain_algorithm_waits_for_its_rollouts_and_reads_their_spans() -> None:
    seen: list[Any] = []

    class Waiting(Algorithm):
        def run(self, train_dataset: Any = None, val_dataset: Any = None) -> None:
            store: Any = self.get_store()
            store.add_resources(PROMPT)
            ids = [store.enqueue_rollout(sample).rollout_id for sample in train_dataset]
            for rollout in store.wait_iter(rollout_ids=ids, timeout=30):
                assert isinstance(rollout, AttemptedRollout)
                seen.append((rollout.input, rollout.status, len(store.query_spans(rollout.rollout_id))))

    fit(Waiting(), [1, 2, 3])
    assert sorted(seen) == [(1, "succeeded", 1), (2, "succeeded", 1), (3, "succeeded", 1)]


def test_a_plain_algorithm_may_run_a_loop_of_its_own() -> None:
    statuses: list[str] = []

    @algo
    def algorithm(*, store: Any) -> None:
        async def main() -> None:
            await store.add_resources(PROMPT)
            rollout = await store.enqueue_rollout("x")
            waiting = store.wait_iter(rollout_ids=[rollout.rollout_id], timeout=30)
            statuses.extend([finished.status async for finished in waiting])

        asyncio.run(main())

    fit(algorithm)
    assert statuses == ["succeeded"]


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("main_thread", ["runner", "algorithm"])
def test_what_the_algorithm_does_is_no_part_of_an_attempt(plain: bool, main_thread: str) -> None:
    at_work, go_on = threading.Event(), threading.Event()
    names: list[str] = []

    class Working(LitAgent[Any]):
        def rollout(self, task: Any, resources: Any, rollout: Any) -> float:
            at_work.set()
            go_on.wait(20)
            return 1.0

    def ask_a_model() -> None:
        at_work.wait(20)
        with trace.get_tracer("library").start_as_current_span("the algorithm's"):
            pass
        go_on.set()

    @algo
    def plain_algorithm(*, store: Any) -> None:
        store.add_resources(PROMPT)
        rollout = store.enqueue_rollout("x")
        ask_a_model()
        store.wait_for_rollouts(rollout_ids=[rollout.rollout_id], timeout=30)
        names.extend(span.name for span in store.query_spans(rollout.rollout_id))

    @algo
    async def async_algorithm(*, store: Any) -> None:
        await store.add_resources(PROMPT)
        rollout = await store.enqueue_rollout("x")
        await asyncio.to_thread(ask_a_model)
        await store.wait_for_rollouts(rollout_ids=[rollout.rollout_id], timeout=30)
        names.extend(span.name for span in await store.query_spans(rollout.rollout_id))

    algorithm = plain_algorithm if plain else async_algorithm
    Trainer(algorithm=algorithm, strategy={"type": "shm", "main_thread": main_thread}).fit(Working())
    assert names == ["agentlightning.annotation"]


def test_the_thread_of_a_plain_algorithm_ends_with_the_run() -> None:
    began, outcome = threading.Event(), []

    @algo
    def algorithm(*, store: Any) -> None:
        rollout = store.enqueue_rollout("nobody runs this")
        began.set()
        try:
            store.wait_for_rollouts(rollout_ids=[rollout.rollout_id])
        except RuntimeError as error:
            outcome.append(str(error))
        over.set()

    over = threading.Event()
    trainer = Trainer(algorithm=algorithm)

    async def interrupted_run() -> None:
        running = asyncio.create_task(
            trainer._algorithm_bundle(trainer.store, ThreadingEvent(), None, None, algorithm)  # noqa: SLF001
        )
        await asyncio.to_thread(began.wait)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(interrupted_run())
    assert over.wait(10)
    assert outcome == ["this store cannot be used any more: the run that it was for has ended"]
