"""Functions as algorithms."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from agentlightning.algorithm.base import Algorithm
from agentlightning.types import Dataset
from agentlightning.utils.callables import importable_as, is_coroutine_callable


class FunctionalAlgorithm(Algorithm):
    """An algorithm made of a function, whose parameters are filled by name.

    Known are `store`, `train_dataset`, `val_dataset`, `llm_proxy`, `adapter` and `initial_resources`; a function
    takes those that it needs. Calling the algorithm calls the function.
    """

    def __init__(self, algorithm_func: Callable[..., Any]) -> None:
        """Makes the algorithm of a function, plain or async."""
        super().__init__()
        self._algorithm_func = algorithm_func
        self._is_async = is_coroutine_callable(algorithm_func)
        self._parameters = inspect.signature(algorithm_func).parameters
        functools.update_wrapper(self, algorithm_func)

    def __reduce__(self) -> str | tuple[Any, ...]:
        # As with decorated agents: the function's name leads here.
        name = importable_as(self)
        if name is not None:
            return name
        return FunctionalAlgorithm, (self._algorithm_func,)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function as it was written."""
        return self._algorithm_func(*args, **kwargs)

    def is_async(self) -> bool:
        """Returns whether the function is async."""
        return self._is_async

    def run(self, train_dataset: Dataset[Any] | None = None, val_dataset: Dataset[Any] | None = None) -> Any:
        """Calls the function with what it takes; the caller awaits the result of an async one.

        Raises:
            TypeError: A dataset is given that the function does not take.
            ValueError: The function takes `store` or `adapter` and none has been set.
        """
        arguments: dict[str, Any] = {}
        for name, dataset in (("train_dataset", train_dataset), ("val_dataset", val_dataset)):
            if name in self._parameters:
                arguments[name] = dataset
            elif dataset is not None:
                raise TypeError(f"{name} is given, but {self._name} does not take it")
        getters: dict[str, Callable[[], Any]] = {
            "store": self.get_store,
            "adapter": self.get_adapter,
            "llm_proxy": self.get_llm_proxy,
            "initial_resources": self.get_initial_resources,
        }
        arguments.update({name: get() for name, get in getters.items() if name in self._parameters})
        return self._algorithm_func(**arguments)

    @property
    def _name(self) -> str:
        return getattr(self._algorithm_func, "__name__", repr(self._algorithm_func))


def algo(func: Callable[..., Any]) -> FunctionalAlgorithm:
    """Makes an algorithm of a function, plain or async, that takes any of the names `FunctionalAlgorithm` knows."""
    return FunctionalAlgorithm(func)
