"""Helpers for algorithms: batches of samples, names of runs, and the parts of a run as arguments."""

from __future__ import annotations

import functools
import inspect
import random
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from agentlightning.algorithm.base import Algorithm
from agentlightning.types import Dataset

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
A = TypeVar("A", bound=Algorithm)


def new_run_name(algorithm: str) -> str:
    """Returns a name for a run of an algorithm that has been given none."""
    return f"{algorithm}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"


def batch_iter_over_dataset(dataset: Dataset[T], batch_size: int, *, seed: int | None = None) -> Iterator[Sequence[T]]:
    """Yields batches of a dataset, for ever and in random order.

    All samples come once before any comes again, except that a batch that begins at the end of one round is filled
    up from the next, without repeating a sample in the batch. A dataset that is not larger than a batch is one.

    Args:
        dataset: The samples.
        batch_size: How many samples make a batch.
        seed: Makes the order repeatable.

    Raises:
        ValueError: The dataset is empty, or `batch_size` is less than 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    if len(dataset) == 0:
        raise ValueError("there are no batches of an empty dataset")
    return _batches(dataset, min(batch_size, len(dataset)), random.Random(seed))


def expect_dataset(name: str, dataset: object) -> None:
    """Checks that the samples of a dataset can be counted and had by their numbers.

    Raises:
        TypeError: They cannot, as those of a generator.
    """
    if isinstance(dataset, Mapping) or not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise TypeError(
            f"{name} must be a list, or another dataset with __len__ and __getitem__, and not a "
            f"{type(dataset).__name__}; list(...) makes a list of what can be iterated over"
        )


def with_store(
    func: Callable[Concatenate[A, LightningStore, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[A, P], Coroutine[Any, Any, R]]:
    """Hands the algorithm's store to an async method, as the argument after `self`.

    Raises:
        ValueError: On the call, when the algorithm has no store.
    """

    @functools.wraps(func)
    async def call(self: A, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await func(self, self.get_store(), *args, **kwargs)

    return call


def with_llm_proxy(
    required: bool = False, auto_start: bool = True
) -> Callable[
    [Callable[Concatenate[A, Any, P], Coroutine[Any, Any, R]]], Callable[Concatenate[A, P], Coroutine[Any, Any, R]]
]:
    """Hands the algorithm's model gateway to an async method, as the argument after `self`.

    Above `with_store` it fills the argument after the store.

    Args:
        required: Whether a call without a gateway is an error; the method gets None otherwise.
        auto_start: Whether to start a gateway that does not run, and to stop it again when the method has ended.

    Raises:
        ValueError: On the call, when a gateway is required and there is none.
    """

    def decorate(
        func: Callable[Concatenate[A, Any, P], Coroutine[Any, Any, R]],
    ) -> Callable[Concatenate[A, P], Coroutine[Any, Any, R]]:
        @functools.wraps(func)
        async def call(self: A, /, *args: P.args, **kwargs: P.kwargs) -> R:
            llm_proxy = self.get_llm_proxy()
            if llm_proxy is None and required:
                raise ValueError(f"{type(self).__name__} needs an LLM proxy: give the trainer one as `llm_proxy`")
            if llm_proxy is None or not auto_start or llm_proxy.is_running():
                return await func(self, llm_proxy, *args, **kwargs)
            await _awaited(llm_proxy.start())
            try:
                return await func(self, llm_proxy, *args, **kwargs)
            finally:
                await _awaited(llm_proxy.stop())

        return call

    return decorate


def _batches(dataset: Dataset[T], batch_size: int, chance: random.Random) -> Iterator[Sequence[T]]:
    batch: list[int] = []
    while True:
        order = list(range(len(dataset)))
        chance.shuffle(order)
        begun = frozenset(batch)
        # Those in a batch that is filled up come later in the round.
        for index in [*(index for index in order if index not in begun), *(index for index in order if index in begun)]:
            batch.append(index)
            if len(batch) == batch_size:
                yield [dataset[index] for index in batch]
                batch = []


async def _awaited(outcome: Any) -> None:
    """Awaits what a method returned that may be async or not."""
    if inspect.isawaitable(outcome):
        await outcome
