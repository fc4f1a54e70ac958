"""Algorithms: what is injected, what is refused, and what the baseline does."""

from __future__ import annotations

import asyncio
import itertools
import logging
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import sample_agents

from agentlightning import (
    LLM,
    Algorithm,
    InMemoryLightningStore,
    LightningStore,
    LitAgent,
    LitAgentRunner,
    OtelTracer,
    PromptTemplate,
    ThreadingEvent,
    algo,
)
from agentlightning.algorithm import Baseline, FastAlgorithm, FunctionalAlgorithm
from agentlightning.algorithm import fast as fast_module
from agentlightning.algorithm.utils import batch_iter_over_dataset, with_llm_proxy, with_store


class Proxy:
    pass


def test_functions_get_what_they_name() -> None:
    seen: dict[str, Any] = {}

    @algo
    def algorithm(
        *, store: Any, train_dataset: Any, val_dataset: Any, llm_proxy: Any, adapter: Any, initial_resources: Any
    ) -> str:
        seen.update(locals())
        return "done"

    store, adapter, proxy = LightningStore(), Proxy(), Proxy()
    resources: Any = {"m": LLM(endpoint="http://a", model="a")}
    algorithm.set_store(store)
    algorithm.set_adapter(adapter)
    algorithm.set_llm_proxy(proxy)
    algorithm.set_initial_resources(resources)
    assert algorithm.run(train_dataset=[1], val_dataset=[2]) == "done"
    assert seen["store"] is store
    assert seen["adapter"] is adapter
    assert seen["llm_proxy"] is proxy
    assert seen["initial_resources"] is resources
    assert (seen["train_dataset"], seen["val_dataset"]) == ([1], [2])


async def test_async_functions_are_awaited_by_the_caller() -> None:
    @algo
    async def algorithm(*, train_dataset: Any = None) -> Any:
        return train_dataset

    assert algorithm.is_async()
    assert await algorithm.run(train_dataset=[1]) == [1]


def test_optional_parts_may_be_missing_and_others_may_not() -> None:
    @algo
    def optional(llm_proxy: Any, initial_resources: Any, **kwargs: Any) -> Any:
        return llm_proxy, initial_resources, kwargs

    @algo
    def needs_store(store: Any) -> None: ...

    @algo
    def needs_adapter(adapter: Any) -> None: ...

    assert optional.run() == (None, None, {})
    with pytest.raises(ValueError, match="Store has not been set"):
        needs_store.run()
    with pytest.raises(ValueError, match="Adapter has not been set"):
        needs_adapter.run()


def test_a_dataset_that_is_not_taken_is_refused() -> None:
    @algo
    def algorithm(train_dataset: Any) -> None: ...

    with pytest.raises(TypeError, match="val_dataset is given, but algorithm does not take it"):
        algorithm.run(train_dataset=[1], val_dataset=[2])


def test_calling_calls_the_function() -> None:
    @algo
    def algorithm(a: int, b: int = 2) -> int:
        """Adds."""
        return a + b

    assert algorithm(1) == 3
    assert isinstance(algorithm, FunctionalAlgorithm)
    assert algorithm.__name__ == "algorithm"
    assert not algorithm.is_async()


def test_references_are_weak() -> None:
    algorithm = Algorithm()
    proxy = Proxy()
    algorithm.set_llm_proxy(proxy)
    assert algorithm.get_llm_proxy() is proxy
    del proxy
    with pytest.raises(ValueError, match="gone"):
        algorithm.get_llm_proxy()
    with pytest.raises(ValueError, match="Trainer has not been set"):
        algorithm.get_trainer()


def test_subclasses_override_run() -> None:
    class Doubling(Algorithm):
        async def run(self, train_dataset: Any = None, val_dataset: Any = None) -> None: ...

    assert Doubling().is_async()
    with pytest.raises(NotImplementedError, match="Algorithm does not override run"):
        Algorithm()()


def test_decorated_algorithms_travel_by_reference() -> None:
    assert pickle.loads(pickle.dumps(sample_agents.named_algorithm)) is sample_agents.named_algorithm


def test_algorithms_of_release_0_1_override_get_client() -> None:
    with pytest.raises(NotImplementedError, match="get_store"):
        Algorithm().get_client()


def test_a_round_of_batches_holds_every_sample_once() -> None:
    batches = batch_iter_over_dataset(range(10), 4, seed=1)
    rounds = Counter(itertools.chain.from_iterable(next(batches) for _ in range(5)))
    assert rounds == dict.fromkeys(range(10), 2)


def test_no_batch_repeats_a_sample() -> None:
    batches = batch_iter_over_dataset(list("abcde"), 4, seed=3)
    assert all(len(set(next(batches))) == 4 for _ in range(50))


def test_a_small_dataset_is_one_batch() -> None:
    batches = batch_iter_over_dataset([1, 2, 3], 8)
    assert [sorted(next(batches)) for _ in range(3)] == [[1, 2, 3]] * 3


def test_batches_of_one_seed_are_the_same() -> None:
    first, second = (batch_iter_over_dataset(range(100), 7, seed=5) for _ in range(2))
    assert [next(first) for _ in range(20)] == [next(second) for _ in range(20)]


def test_impossible_batches_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="at least 1, not 0"):
        batch_iter_over_dataset([1], 0)
    with pytest.raises(ValueError, match="empty dataset"):
        batch_iter_over_dataset([], 1)


class Gateway:
    """A model gateway of either release: that of 0.2 is started by plain methods, that of 0.3 by async ones."""

    def __init__(self, *, is_async: bool, running: bool = False) -> None:
        self.is_async = is_async
        self.running = running
        self.log: list[str] = []

    def is_running(self) -> bool:
        return self.running

    def start(self) -> Any:
        return self._switch(True)

    def stop(self) -> Any:
        return self._switch(False)

    def _switch(self, running: bool) -> Any:
        async def switch() -> None:
            self.running = running
            self.log.append("start" if running else "stop")

        if self.is_async:
            return switch()
        with pytest.raises(StopIteration):
            switch().send(None)
        return None


class Using(Algorithm):
    @with_llm_proxy()
    @with_store
    async def run(self, store: Any, llm_proxy: Any, train_dataset: Any = None, val_dataset: Any = None) -> Any:
        if train_dataset == "raise":
            raise ValueError("no")
        return store, llm_proxy, llm_proxy and llm_proxy.running, train_dataset

    @with_llm_proxy(required=True)
    async def needs_it(self, llm_proxy: Any) -> Any:
        return llm_proxy

    @with_llm_proxy(auto_start=False)
    async def takes_it_as_it_is(self, llm_proxy: Any) -> bool:
        return bool(llm_proxy.running)


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_gateway_runs_while_the_method_does(is_async: bool) -> None:
    algorithm, store, gateway = Using(), LightningStore(), Gateway(is_async=is_async)
    algorithm.set_store(store)
    algorithm.set_llm_proxy(gateway)
    assert algorithm.is_async()
    assert await algorithm.run(train_dataset=[1]) == (store, gateway, True, [1])
    assert gateway.log == ["start", "stop"]
    with pytest.raises(ValueError, match="no"):
        await algorithm.run("raise")
    assert gateway.log == ["start", "stop"] * 2


async def test_a_gateway_that_runs_already_is_left_running() -> None:
    algorithm, gateway = Using(), Gateway(is_async=True, running=True)
    algorithm.set_llm_proxy(gateway)
    assert await algorithm.needs_it() is gateway
    assert gateway.log == []


async def test_a_gateway_may_be_missing_where_it_is_not_required() -> None:
    algorithm = Using()
    with pytest.raises(ValueError, match="Store has not been set"):
        await algorithm.run()
    algorithm.set_store(LightningStore())
    assert (await algorithm.run())[1] is None
    with pytest.raises(ValueError, match="Using needs an LLM proxy"):
        await algorithm.needs_it()
    gateway = Gateway(is_async=True)
    algorithm.set_llm_proxy(gateway)
    assert not await algorithm.takes_it_as_it_is()


@asynccontextmanager
async def running(agent: LitAgent[Any], store: LightningStore, n_runners: int = 1) -> AsyncIterator[None]:
    """Runs runners on this loop during the block."""
    event = ThreadingEvent()

    async def run(worker_id: int) -> None:
        runner: LitAgentRunner[Any] = LitAgentRunner(OtelTracer(), heartbeat_interval=0.2)
        with runner.run_context(agent=agent, store=store, worker_id=worker_id):
            await runner.iter(event=event)

    runners = [asyncio.create_task(run(worker_id)) for worker_id in range(n_runners)]
    try:
        yield
    finally:
        event.set()
        await asyncio.gather(*runners)


class Scoring(LitAgent[Any]):
    """Earns what its task says; a function is called for it."""

    def __init__(self, work: Callable[[Any], Any] = lambda task: 1.0) -> None:
        super().__init__()
        self.work = work

    async def rollout_async(self, task: Any, resources: Any, rollout: Any) -> Any:
        return self.work(task)


class Lengths:
    """An adapter that counts."""

    def adapt(self, spans: Any) -> int:
        return len(spans)


def baseline_on(store: LightningStore, **options: Any) -> Baseline:
    baseline = Baseline(**options)
    baseline.set_store(store)
    return baseline


async def test_the_baseline_runs_every_sample_in_every_epoch() -> None:
    store = InMemoryLightningStore()
    async with running(Scoring(), store, n_runners=2):
        await baseline_on(store, n_epochs=2).run([1, 2, 3], [4])
    rollouts = await store.query_rollouts()
    assert Counter((rollout.mode, rollout.input) for rollout in rollouts) == {
        ("train", 1): 2,
        ("train", 2): 2,
        ("train", 3): 2,
        ("val", 4): 2,
    }
    assert {rollout.status for rollout in rollouts} == {"succeeded"}
    assert {rollout.config.timeout_seconds for rollout in rollouts} == {600.0}


async def test_the_baseline_takes_datasets_that_can_only_be_indexed() -> None:
    class Squares:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: Any) -> int:
            if not 0 <= index < 3:
                raise KeyError(index)
            return int(index) ** 2

    store = InMemoryLightningStore()
    async with running(Scoring(), store):
        await baseline_on(store).run(Squares())
    assert [rollout.input for rollout in await store.query_rollouts()] == [0, 1, 4]


async def test_the_baseline_keeps_the_queue_short() -> None:
    store = InMemoryLightningStore()
    longest = 0

    class Watching(Scoring):
        async def rollout_async(self, task: Any, resources: Any, rollout: Any) -> float:
            nonlocal longest
            longest = max(longest, len(await store.query_rollouts(status_in=["queuing", "requeuing"])))
            return 1.0

    async with running(Watching(), store):
        await baseline_on(store, max_queue_length=2).run(list(range(12)))
    assert 1 <= longest <= 2


async def test_all_runners_get_work_before_any_rollout_has_finished() -> None:
    store = InMemoryLightningStore()
    met, at_work = asyncio.Event(), 0

    class Meeting(Scoring):
        async def rollout_async(self, task: Any, resources: Any, rollout: Any) -> float:
            nonlocal at_work
            at_work += 1
            if at_work == 3:
                met.set()
            await met.wait()
            return 1.0

    async with running(Meeting(), store, n_runners=3):
        await asyncio.wait_for(baseline_on(store, max_queue_length=1).run([1, 2, 3]), 30)


async def test_the_baseline_publishes_the_initial_resources() -> None:
    store = InMemoryLightningStore()
    baseline = baseline_on(store)
    baseline.set_initial_resources({"prompt": PromptTemplate(template="Hello {name}", engine="f-string")})
    async with running(sample_agents.greet, store):
        await baseline.run([{"name": "A", "reward": 1}])
    (rollout,) = await store.query_rollouts()
    assert (rollout.status, rollout.resources_id) == ("succeeded", "default")


async def test_without_resources_agents_that_need_none_run_and_others_fail() -> None:
    for agent, status, kind in ((Scoring(), "succeeded", None), (sample_agents.greet, "failed", "missing_resources")):
        store = InMemoryLightningStore()
        async with running(agent, store):
            await baseline_on(store).run([{"name": "A", "reward": 1}])
        (rollout,) = await store.query_rollouts()
        (attempt,) = await store.query_attempts(rollout.rollout_id)
        assert (rollout.status, attempt.failure and attempt.failure.kind) == (status, kind)


async def test_resources_that_are_in_the_store_already_are_used() -> None:
    store = InMemoryLightningStore()
    update = await store.add_resources({"prompt": PromptTemplate(template="Hello {name}", engine="f-string")})
    async with running(sample_agents.greet, store):
        await baseline_on(store).run([{"name": "A", "reward": 1}])
    (rollout,) = await store.query_rollouts()
    assert rollout.status == "succeeded"
    latest = await store.get_latest_resources()
    assert latest is not None
    assert latest.resources_id == update.resources_id


@pytest.mark.parametrize("datasets", [(None, None), ([], []), ([], None)])
async def test_the_baseline_refuses_to_run_nothing(datasets: Any) -> None:
    with pytest.raises(ValueError, match="nothing to run: train_dataset and val_dataset are both missing or empty"):
        await baseline_on(InMemoryLightningStore()).run(*datasets)


@pytest.mark.parametrize("dataset", [iter([1]), {1, 2}, {"train": [1]}, 5], ids=lambda it: type(it).__name__)
async def test_the_baseline_names_a_dataset_that_is_none(dataset: Any) -> None:
    with pytest.raises(TypeError, match=f"val_dataset must be a list.* and not a {type(dataset).__name__}; list"):
        await baseline_on(InMemoryLightningStore()).run([1], dataset)


async def test_the_baseline_names_the_sample_that_cannot_be_sent() -> None:
    store = InMemoryLightningStore()
    async with running(Scoring(), store):
        with pytest.raises(TypeError, match=r"val_dataset\[1\] cannot be sent to a runner: input\.when is a set"):
            await baseline_on(store).run([1], [2, {"when": {3}}])


async def test_a_rollout_that_hangs_is_given_up() -> None:
    store = InMemoryLightningStore()

    class Hanging(Scoring):
        async def rollout_async(self, task: Any, resources: Any, rollout: Any) -> float:
            if task == "hang":
                await asyncio.Event().wait()
            return 1.0

    async with running(Hanging(), store, n_runners=2):
        await asyncio.wait_for(baseline_on(store, rollout_timeout=0.3).run(["hang", "work"]), 30)
        statuses = {rollout.input: rollout.status for rollout in await store.query_rollouts()}
        assert statuses == {"hang": "failed", "work": "succeeded"}


async def test_the_baseline_ends_when_nobody_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_module, "_STALL_SECONDS", 0.2)
    with pytest.raises(RuntimeError, match=r"no runner took or finished a rollout for \d+ s, and 1 are left"):
        await baseline_on(InMemoryLightningStore(), rollout_timeout=0.1, polling_interval=0.1).run([1])


async def test_a_deleted_rollout_is_not_waited_for() -> None:
    enqueued = asyncio.Event()

    class Noting(InMemoryLightningStore):
        async def enqueue_rollout(self, input: Any, *args: Any, **kwargs: Any) -> Any:
            rollout = await super().enqueue_rollout(input, *args, **kwargs)
            if input == 2:
                enqueued.set()
            return rollout

    store = Noting()
    working = asyncio.create_task(baseline_on(store, max_queue_length=8).run([1, 2]))
    await enqueued.wait()
    await store.delete_rollouts(status_in=["queuing"])
    await asyncio.wait_for(working, 30)


@pytest.mark.parametrize("verbosity", ["keys", "key_values", "none"])
async def test_the_baseline_logs_what_it_collected(verbosity: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="agentlightning.algorithm.fast")
    store, adapter = InMemoryLightningStore(), Lengths()
    baseline = baseline_on(store, span_verbosity=verbosity)
    baseline.set_adapter(adapter)

    def work(task: Any) -> float:
        if task == "bad":
            raise ValueError("cannot do that")
        return 0.125

    async with running(Scoring(work), store):
        await baseline.run(["good", "bad"])
    text = caplog.text
    assert "agent_error: ValueError: cannot do that" in text
    assert "as its adapter sees it: 1" in text
    assert ("agentlightning.annotation" in text) == (verbosity != "none")
    assert ("'agentlightning.reward.0.value': 0.125" in text) == (verbosity == "key_values")
    assert ("'agentlightning.reward.0.value'" in text) == (verbosity != "none")


async def test_an_adapter_that_raises_is_logged_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    class Raising:
        def adapt(self, spans: Any) -> None:
            raise LookupError("nothing in there")

    caplog.set_level(logging.INFO, logger="agentlightning.algorithm.fast")
    store, adapter = InMemoryLightningStore(), Raising()
    baseline = baseline_on(store)
    baseline.set_adapter(adapter)
    async with running(Scoring(), store):
        await baseline.run([1])
    assert "the adapter raised LookupError: nothing in there" in caplog.text


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"n_epochs": 0}, "n_epochs must be at least 1, not 0"),
        ({"train_split": 1.0}, "train_split must be between 0 and 1"),
        ({"polling_interval": 0}, "polling_interval must be above 0"),
        ({"max_queue_length": 0}, "max_queue_length must be at least 1"),
        ({"span_verbosity": "all"}, "span_verbosity must be keys, key_values or none, not 'all'"),
        ({"rollout_timeout": 0}, "rollout_timeout must be above 0 or None"),
    ],
)
def test_the_baseline_refuses_impossible_options(options: Any, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        Baseline(**options)


def test_the_baseline_is_a_fast_algorithm() -> None:
    assert isinstance(Baseline(), FastAlgorithm)
    assert Baseline().is_async()


def test_grpo_names_the_extra_that_it_needs_and_its_module_loads_without() -> None:
    code = """
import sys
sys.modules["torch"] = None
from agentlightning import GRPO
try:
    GRPO("model")
except ImportError as error:
    assert "agentlightning-grpc[train]" in str(error), error
else:
    raise AssertionError("there was no error")
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_verl_names_the_extra_that_it_needs() -> None:
    code = """
import sys
sys.modules["verl"] = None
from agentlightning import VERL
try:
    VERL({})
except ImportError as error:
    assert "agentlightning-grpc[verl]" in str(error), error
else:
    raise AssertionError("there was no error")
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)
