"""The trainer."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from agentlightning.algorithm.base import Algorithm
from agentlightning.execution.base import ExecutionStrategy
from agentlightning.execution.client_server import ClientServerExecutionStrategy
from agentlightning.execution.events import ExecutionEvent
from agentlightning.litagent.litagent import LitAgent
from agentlightning.runner.agent import EVENT_POLL_SECONDS, LitAgentRunner
from agentlightning.runner.base import Runner
from agentlightning.store.base import LightningStore
from agentlightning.tracer.base import Tracer
from agentlightning.types import Dataset, Hook, NamedResources
from agentlightning.utils.threads import run_in_thread

logger = logging.getLogger(__name__)

T = TypeVar("T")

_ALGORITHM_SIDE: Final = ("algorithm", "store", "adapter", "llm_proxy", "strategy", "initial_resources")


class Trainer:
    """Puts an algorithm, runners and a store together and runs them.

    In a runner process the trainer is a copy without the algorithm's side: `algorithm`, `store`, `adapter`,
    `llm_proxy`, `strategy` and `initial_resources` are None there.

    Attributes:
        algorithm: What trains; None to run runners only.
        store: Where algorithm and runners meet.
        runner: What runs the agent; each runner process has its own copy.
        initial_resources: What the algorithm starts from.
        n_runners: How many runners.
        max_rollouts: How many rollouts each runner does before it leaves; None sets no limit.
        strategy: Where it all runs.
        tracer: What records the agent.
        hooks: What to call around each rollout.
        adapter: What turns spans into what the algorithm learns from.
        llm_proxy: The model gateway.
    """

    algorithm: Algorithm | None
    store: LightningStore
    runner: Runner[Any]
    initial_resources: NamedResources | None
    n_runners: int
    max_rollouts: int | None
    strategy: ExecutionStrategy
    tracer: Tracer
    hooks: Sequence[Hook]
    adapter: Any | None
    llm_proxy: Any | None

    def __init__(
        self,
        *,
        dev: bool = False,
        n_runners: int | None = None,
        max_rollouts: int | None = None,
        initial_resources: NamedResources | None = None,
        tracer: Tracer | None = None,
        adapter: Any | None = None,
        store: LightningStore | None = None,
        runner: Runner[Any] | None = None,
        strategy: ExecutionStrategy | str | None = None,
        port: int | None = None,
        algorithm: Algorithm | None = None,
        llm_proxy: Any | None = None,
        n_workers: int | None = None,
        max_tasks: int | None = None,
        daemon: bool = True,
        triplet_exporter: Any | None = None,
        hooks: Hook | Sequence[Hook] | None = None,
    ) -> None:
        """Puts the parts together.

        Args:
            dev: Deprecated: call `dev` instead of `fit`.
            n_runners: How many runners; 1 unless given.
            max_rollouts: How many rollouts each runner does before it leaves; None sets no limit.
            initial_resources: What the algorithm starts from.
            tracer: What records the agent; an `OtelTracer` unless given.
            adapter: What turns spans into what the algorithm learns from.
            store: Where algorithm and runners meet; one in memory unless given.
            runner: What runs the agent; a `LitAgentRunner` unless given.
            strategy: An instance, or `"cs"`, which is the default.
            port: Port of the store server; see `ClientServerExecutionStrategy`.
            algorithm: What trains; None to run runners only.
            llm_proxy: The model gateway.
            n_workers: Deprecated name of `n_runners`.
            max_tasks: Deprecated name of `max_rollouts`.
            daemon: Accepted for old callers, without effect: runner processes always leave with this one.
            triplet_exporter: Deprecated name of `adapter`.
            hooks: What to call around each rollout.

        Raises:
            TypeError: A part is of the wrong type.
            ValueError: The strategy is not known by that name, or `n_runners` is less than 1.
        """
        if dev:
            _deprecated("Trainer(dev=True)", "Trainer(...).dev(...)")
        self.n_runners = _renamed("n_workers", n_workers, "n_runners", n_runners) or 1
        self.max_rollouts = _renamed("max_tasks", max_tasks, "max_rollouts", max_rollouts)
        self.daemon = daemon
        self.initial_resources = initial_resources
        self.hooks = [hooks] if isinstance(hooks, Hook) else list(hooks or ())
        self.adapter = _renamed("triplet_exporter", triplet_exporter, "adapter", adapter)
        self.llm_proxy = llm_proxy
        self.algorithm = None if algorithm is None else _part("algorithm", algorithm, Algorithm)
        self.tracer = _part("tracer", tracer, Tracer, _default_tracer)
        self.store = _part("store", store, LightningStore, _default_store)
        self.runner = _part(
            "runner", runner, Runner, lambda: LitAgentRunner(self.tracer, max_rollouts=self.max_rollouts)
        )
        self.strategy = self._strategy(strategy, port)

    def __getstate__(self) -> dict[str, Any]:
        return {name: None if name in _ALGORITHM_SIDE else value for name, value in self.__dict__.items()}

    def fit(
        self,
        agent: LitAgent[T],
        train_dataset: Dataset[T] | None = None,
        *,
        val_dataset: Dataset[T] | None = None,
    ) -> None:
        """Trains: runs the algorithm, with runners that run the agent, until the algorithm ends.

        Args:
            agent: The agent.
            train_dataset: The samples to learn from.
            val_dataset: The samples to judge by.

        Raises:
            TypeError: `agent` is no agent, or cannot be sent to runner processes.
            RuntimeError: It is called on a running event loop, or the runners died.
            KeyboardInterrupt: Ctrl+C was pressed; the runners have left.
            Exception: What the algorithm raised.
        """
        if not isinstance(agent, LitAgent):
            raise TypeError(f"fit needs a LitAgent or a function decorated as one, not a {type(agent).__name__}")
        if isinstance(train_dataset, str):
            raise TypeError("train_dataset is the address of an old server; pass the data, and the server as `store`")
        _expect_no_running_loop()
        agent.set_trainer(self)
        self.strategy.execute(
            functools.partial(
                self._algorithm_bundle,
                train_dataset=train_dataset,
                val_dataset=val_dataset,
                algorithm=self.algorithm,
            ),
            functools.partial(self._runner_bundle, agent=agent),
            self.store,
        )

    async def _algorithm_bundle(
        self,
        store: LightningStore,
        event: ExecutionEvent,
        train_dataset: Dataset[Any] | None,
        val_dataset: Dataset[Any] | None,
        algorithm: Algorithm | None,
    ) -> None:
        """Runs the algorithm with all that the trainer has for it; without one, waits for `event`."""
        if algorithm is None:
            # The event may be of another thread or process, which no asyncio.Event is.
            while not event.is_set():  # noqa: ASYNC110
                await asyncio.sleep(EVENT_POLL_SECONDS)
            return
        algorithm.set_trainer(self)
        algorithm.set_store(store)
        if self.adapter is not None:
            algorithm.set_adapter(self.adapter)
        if self.initial_resources is not None:
            algorithm.set_initial_resources(self.initial_resources)
        if self.llm_proxy is not None:
            self.llm_proxy.set_store(store)
            algorithm.set_llm_proxy(self.llm_proxy)
        run = functools.partial(algorithm.run, train_dataset=train_dataset, val_dataset=val_dataset)
        result = run() if algorithm.is_async() else await run_in_thread(run)
        if inspect.isawaitable(result):
            await result

    async def _runner_bundle(
        self, store: LightningStore, worker_id: int, event: ExecutionEvent, agent: LitAgent[Any]
    ) -> None:
        """Runs one runner until `event` is set."""
        agent.set_trainer(self)
        self.runner.init(agent, hooks=self.hooks)
        try:
            self.runner.init_worker(worker_id, store)
            try:
                await self.runner.iter(event=event)
            finally:
                self.runner.teardown_worker(worker_id)
        finally:
            self.runner.teardown()

    def _strategy(self, strategy: ExecutionStrategy | str | None, port: int | None) -> ExecutionStrategy:
        if strategy is None or strategy == ClientServerExecutionStrategy.alias:
            return ClientServerExecutionStrategy(n_runners=self.n_runners, server_port=port)
        if isinstance(strategy, str):
            raise ValueError(f"unknown strategy {strategy!r}; known by name is {ClientServerExecutionStrategy.alias!r}")
        return _part("strategy", strategy, ExecutionStrategy)


def _part(name: str, value: Any, kind: type[T], default: Callable[[], T] | None = None) -> T:
    if value is None and default is not None:
        return default()
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be an instance of {kind.__name__}, not {value!r}")
    return value


def _default_tracer() -> Tracer:
    from agentlightning.tracer.otel import OtelTracer

    return OtelTracer()


def _default_store() -> LightningStore:
    from agentlightning.store.memory import InMemoryLightningStore

    return InMemoryLightningStore()


def _renamed(old_name: str, old: T | None, new_name: str, new: T | None) -> T | None:
    if old is None:
        return new
    _deprecated(f"Trainer({old_name}=...)", f"Trainer({new_name}=...)")
    return old if new is None else new


def _deprecated(old: str, new: str) -> None:
    warnings.warn(f"{old} is deprecated; use {new}", DeprecationWarning, stacklevel=4)


def _expect_no_running_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(
        "fit blocks until the training ends, and so cannot be called on a running event loop: call it from "
        "synchronous code, or `await asyncio.to_thread(trainer.fit, ...)`"
    )
