"""Algorithms: what is injected, and what is refused."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import sample_agents

from agentlightning import LLM, Algorithm, LightningStore, algo
from agentlightning.algorithm.decorator import FunctionalAlgorithm


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
