"""The trainer: what it accepts, and what it hands to whom."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import sample_agents

from agentlightning import (
    Algorithm,
    ClientServerExecutionStrategy,
    ExecutionStrategy,
    Hook,
    InMemoryLightningStore,
    LitAgentRunner,
    OtelTracer,
    ThreadingEvent,
    Trainer,
    algo,
)


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
    assert (trainer.algorithm, trainer.adapter, trainer.llm_proxy, trainer.initial_resources) == (None,) * 4
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
    with pytest.raises(ValueError, match="unknown strategy 'moon'"):
        Trainer(strategy="moon")


@pytest.mark.parametrize("part", ["store", "tracer", "runner", "algorithm", "strategy"])
def test_parts_of_the_wrong_type_are_refused(part: str) -> None:
    with pytest.raises(TypeError, match=f"{part} must be an instance of"):
        Trainer(**{part: object()})  # type: ignore[arg-type]


def test_old_names_warn_and_work() -> None:
    with pytest.warns(DeprecationWarning, match=r"Trainer\(n_workers=\.\.\.\) is deprecated") as caught:
        trainer = Trainer(n_workers=2)
    assert caught[0].filename == __file__
    assert trainer.n_runners == 2
    with pytest.warns(DeprecationWarning, match="max_rollouts"):
        assert Trainer(max_tasks=5).max_rollouts == 5
    adapter = object()
    with pytest.warns(DeprecationWarning, match="adapter"):
        assert Trainer(triplet_exporter=adapter).adapter is adapter
    with pytest.warns(DeprecationWarning, match=r"\.dev\("):
        Trainer(dev=True)


def test_fit_refuses_what_is_no_agent() -> None:
    with pytest.raises(TypeError, match="not a function"):
        Trainer(strategy=Recording()).fit(lambda task, llm: 1.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="address of an old server"):
        Trainer(strategy=Recording()).fit(sample_agents.greet, "http://localhost:8000")  # type: ignore[arg-type]


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

    class Adapter:
        pass

    algorithm, proxy, adapter = Noting(), Proxy(), Adapter()
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
    import threading

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
            assert agent.tracer is trainer.tracer
            event.set()

    trainer.hooks = [StopAfterOne()]
    await trainer._runner_bundle(trainer.store, 0, event, sample_agents.Echo())  # noqa: SLF001
    done = await trainer.store.get_rollout_by_id(rollout.rollout_id)
    assert done is not None
    assert done.status == "succeeded"


def test_a_trainer_travels_without_the_algorithms_side() -> None:
    trainer = Trainer(algorithm=sample_agents.named_algorithm, n_runners=2, max_rollouts=3, adapter=lambda: None)
    copy = pickle.loads(pickle.dumps(trainer))
    assert (copy.n_runners, copy.max_rollouts) == (2, 3)
    assert isinstance(copy.runner, LitAgentRunner)
    assert (copy.algorithm, copy.store, copy.adapter, copy.strategy) == (None,) * 4
