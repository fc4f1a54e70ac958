"""The trainer."""

from __future__ import annotations

import asyncio
import functools
import inspect
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol, TypeVar, cast, runtime_checkable

from agentlightning.algorithm.base import Algorithm
from agentlightning.algorithm.fast import Baseline, FastAlgorithm
from agentlightning.client import AgentLightningClient
from agentlightning.execution.base import AlgorithmBundle, ExecutionStrategy
from agentlightning.execution.events import ExecutionEvent
from agentlightning.execution.worker_names import current_worker_name
from agentlightning.litagent.litagent import LitAgent, is_v0_1_rollout_api
from agentlightning.runner.agent import LitAgentRunner
from agentlightning.runner.base import Runner
from agentlightning.runner.claims import EVENT_POLL_SECONDS
from agentlightning.store.base import LightningStore
from agentlightning.store.blocking import BlockingStore
from agentlightning.tracer.base import Tracer
from agentlightning.tracer.recording import nowhere
from agentlightning.trainer.dev_report import reporting
from agentlightning.trainer.init_utils import ComponentSpec, build_component
from agentlightning.trainer.legacy import TrainerLegacy, expect_no_running_loop
from agentlightning.trainer.progress import showing_progress
from agentlightning.types import Dataset, Hook, NamedResources
from agentlightning.utils.threads import run_in_thread

T = TypeVar("T")

STRATEGIES: Final = {
    "cs": "agentlightning.execution.client_server.ClientServerExecutionStrategy",
    "shm": "agentlightning.execution.shared_memory.SharedMemoryExecutionStrategy",
}
"""The short names of strategies."""
_DEFAULT_STRATEGY: Final = "cs"
_DEFAULT_TRACER: Final = "agentlightning.tracer.otel.OtelTracer"
_DEFAULT_ADAPTER: Final = "agentlightning.adapter.triplet.TracerTraceToTriplet"
_DEFAULT_LLM_PROXY: Final = "agentlightning.llm_proxy.LLMProxy"

_CARRIED: Final = ("algorithm", "adapter", "llm_proxy", "initial_resources")
_ALGORITHM_SIDE: Final = (*_CARRIED, "store", "strategy")


@runtime_checkable
class AdapterLike(Protocol):
    """What a trainer asks of an adapter."""

    def adapt(self, source: Any, /) -> Any:
        """Turns the spans of an attempt into what an algorithm learns from."""


@runtime_checkable
class LLMProxyLike(Protocol):
    """What a trainer asks of a model gateway; what algorithms ask for is between them and it."""

    def set_store(self, store: LightningStore, /) -> None:
        """Takes the store that the spans of model calls go to."""


class Trainer(TrainerLegacy):
    """Puts an algorithm, runners and a store together and runs them.

    Most parts may be given as a `ComponentSpec`: an instance, a class, a function that makes one, an import path such
    as `"package.module.Class"`, or a dictionary of `type` and the arguments of the constructor. Parts that are not
    given are made when they are first needed.

    In a runner process the trainer is a copy without the algorithm's side: `algorithm`, `store`, `adapter`,
    `llm_proxy`, `strategy` and `initial_resources` are None there.

    Attributes:
        algorithm: What trains; None to run runners only.
        runner: What runs the agent; each runner has its own copy.
        initial_resources: What the algorithm starts from.
        n_runners: How many runners.
        max_rollouts: How many rollouts each runner does before it leaves; None sets no limit.
        strategy: Where it all runs.
        tracer: What records the agent.
        hooks: What to call around each rollout.
        llm_proxy: The model gateway.
        progress: Whether `fit` shows how far it is.
    """

    algorithm: Algorithm | None
    runner: Runner[Any]
    initial_resources: NamedResources | None
    n_runners: int
    max_rollouts: int | None
    strategy: ExecutionStrategy
    tracer: Tracer
    hooks: Sequence[Hook]
    llm_proxy: Any | None
    progress: bool | None

    def __init__(
        self,
        *,
        dev: bool = False,
        n_runners: int | None = None,
        max_rollouts: int | None = None,
        initial_resources: NamedResources | None = None,
        tracer: ComponentSpec[Tracer] | None = None,
        adapter: ComponentSpec[AdapterLike] | None = None,
        store: ComponentSpec[LightningStore] | None = None,
        runner: ComponentSpec[Runner[Any]] | None = None,
        strategy: ComponentSpec[ExecutionStrategy] | None = None,
        port: int | None = None,
        algorithm: ComponentSpec[Algorithm] | None = None,
        llm_proxy: ComponentSpec[LLMProxyLike] | None = None,
        n_workers: int | None = None,
        max_tasks: int | None = None,
        daemon: bool = True,
        triplet_exporter: ComponentSpec[AdapterLike] | None = None,
        hooks: Hook | Sequence[Hook] | None = None,
        progress: bool | None = None,
    ) -> None:
        """Puts the parts together.

        Args:
            dev: Deprecated: call `dev` instead of `fit`.
            n_runners: How many runners; 1 unless given.
            max_rollouts: How many rollouts each runner does before it leaves; None sets no limit.
            initial_resources: What the algorithm starts from.
            tracer: What records the agent; an `OtelTracer` unless given.
            adapter: What turns spans into what the algorithm learns from; a `TracerTraceToTriplet` unless given, also
                for a dictionary without `type`.
            store: Where algorithm and runners meet; one in memory unless given.
            runner: What runs the agent; a `LitAgentRunner` unless given. Its constructor gets `tracer` and
                `max_rollouts` if it takes them.
            strategy: Where to run it all: `"cs"`, which is the default, has runners in processes of their own, `"shm"`
                in threads of this one. Its constructor gets `n_runners` and `server_port` if it takes them.
            port: Port of the store server; see `ClientServerExecutionStrategy`.
            algorithm: What trains; None to run runners only.
            llm_proxy: The model gateway; an `LLMProxy` for a dictionary without `type`. Its constructor gets `store`
                if it takes that.
            n_workers: Deprecated name of `n_runners`.
            max_tasks: Deprecated name of `max_rollouts`.
            daemon: Accepted for old callers, without effect: runner processes always leave with this one.
            triplet_exporter: Deprecated name of `adapter`.
            hooks: What to call around each rollout.
            progress: Whether `fit` shows how far it is: in one line if stderr is a terminal, else in the log. None
                means on a terminal only.

        Raises:
            TypeError: A spec leads to something of the wrong type, or its arguments do not fit.
            ValueError: A spec is none, or `n_runners` is less than 1.
            ImportError: The import path of a spec leads nowhere.
        """
        if dev:
            _deprecated("Trainer(dev=True)", "Trainer(...).dev(...)", depth=3)
        n_runners = _renamed("n_workers", n_workers, "n_runners", n_runners)
        self.n_runners = 1 if n_runners is None else n_runners
        if self.n_runners < 1:
            raise ValueError(f"n_runners must be at least 1, not {n_runners}")
        self.max_rollouts = _renamed("max_tasks", max_tasks, "max_rollouts", max_rollouts)
        self.daemon = daemon
        self.initial_resources = initial_resources
        self.hooks = [hooks] if isinstance(hooks, Hook) else list(hooks or ())
        self.progress = progress
        adapter_spec: Any = _renamed("triplet_exporter", triplet_exporter, "adapter", adapter)
        if adapter_spec is not None:
            self.adapter = _adapter(adapter_spec)
        if store is not None:
            self.store = _built(store, LightningStore, "store")
        self.algorithm = _built(algorithm, Algorithm, "algorithm", allow_none=True)
        self.tracer = _built(tracer, Tracer, "tracer", _DEFAULT_TRACER)
        self.runner = _built(
            runner,
            Runner,
            "runner",
            LitAgentRunner,
            optional_defaults={"tracer": self.tracer, "max_rollouts": self.max_rollouts},
        )
        self.strategy = _built(
            strategy,
            ExecutionStrategy,
            "strategy",
            _DEFAULT_STRATEGY,
            optional_defaults={"n_runners": self.n_runners, "server_port": port},
            registry=STRATEGIES,
        )
        self.llm_proxy = _built(
            llm_proxy,
            LLMProxyLike,
            "llm_proxy",
            allow_none=True,
            optional_defaults={"store": lambda: self.store},
            dict_requires_type=False,
            dict_default_cls=_DEFAULT_LLM_PROXY,
        )

    @functools.cached_property
    def adapter(self) -> Any | None:
        """What turns spans into what the algorithm learns from."""
        return _adapter(_DEFAULT_ADAPTER)

    @functools.cached_property
    def store(self) -> LightningStore:  # type: ignore[override]  # it can be set
        """Where algorithm and runners meet."""
        from agentlightning.store.memory import InMemoryLightningStore

        return InMemoryLightningStore()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, **dict.fromkeys(_ALGORITHM_SIDE)}

    def fit(
        self,
        agent: LitAgent[T],
        train_dataset: Dataset[T] | str | AgentLightningClient | None = None,
        *,
        val_dataset: Dataset[T] | None = None,
    ) -> None:
        """Trains: runs the algorithm, with runners that run the agent, until the algorithm ends.

        Args:
            agent: The agent.
            train_dataset: The samples to learn from. Deprecated: the URL of a legacy server, or a client of it; see
                `fit_v0`.
            val_dataset: The samples to judge by.

        Raises:
            TypeError: `agent` is no agent, or cannot be sent to runner processes.
            RuntimeError: It is called on a running event loop, or the runners died.
            KeyboardInterrupt: Ctrl+C was pressed; the runners have left.
            Exception: What the algorithm raised.
        """
        if isinstance(train_dataset, (str, AgentLightningClient)):
            _deprecated("fit with a legacy server", "fit with a store", depth=3)
            self._fit_legacy(train_dataset, agent, None, val_dataset)
            return
        self._run("fit", self._algorithm_bundle, self.algorithm, agent, train_dataset, val_dataset)

    def dev(
        self,
        agent: LitAgent[T],
        train_dataset: Dataset[T] | None = None,
        *,
        val_dataset: Dataset[T] | None = None,
    ) -> None:
        """Tries an agent out: runs it on the samples and prints what became of each rollout, and why.

        It takes a `FastAlgorithm`, or none, which means a `Baseline`: every sample runs, and none for more than ten
        minutes.

        Args:
            agent: The agent.
            train_dataset: Samples to run in the mode `train`.
            val_dataset: Samples to run in the mode `val`.

        Raises:
            TypeError: The trainer's algorithm is none for this, or `agent` is no agent or cannot be sent to runner
                processes, or a sample is nothing that JSON can carry.
            ValueError: There are no samples.
            RuntimeError: It is called on a running event loop, or the runners died.
            KeyboardInterrupt: Ctrl+C was pressed; the runners have left.
            Exception: What the algorithm raised.
        """
        algorithm = Baseline() if self.algorithm is None else self.algorithm
        if not isinstance(algorithm, FastAlgorithm):
            raise TypeError(
                f"dev runs a FastAlgorithm, such as Baseline, and not {type(algorithm).__name__}: "
                "make a Trainer without an algorithm for it, or call fit"
            )
        self._run("dev", self._dev_bundle, algorithm, agent, train_dataset, val_dataset)

    def _run(
        self,
        caller: str,
        bundle: Callable[..., Any],
        algorithm: Algorithm | None,
        agent: LitAgent[T],
        train_dataset: Dataset[T] | None,
        val_dataset: Dataset[T] | None,
    ) -> None:
        if not isinstance(agent, LitAgent):
            raise TypeError(f"{caller} needs a LitAgent or a function decorated as one, not a {type(agent).__name__}")
        for dataset in (train_dataset, val_dataset):
            if isinstance(dataset, str):
                raise TypeError(f"{caller} needs samples, not the string {dataset!r}")
        if is_v0_1_rollout_api(agent.rollout):
            raise TypeError(
                f"{type(agent).__name__}.rollout is one of release 0.1, which takes `rollout_id`: rename its "
                "parameters to (task, resources, rollout), or train against a legacy server, whose URL fit takes too"
            )
        expect_no_running_loop(caller)
        agent.set_trainer(self)
        self.strategy.execute(
            _AlgorithmSide(
                self,
                functools.partial(bundle, train_dataset=train_dataset, val_dataset=val_dataset, algorithm=algorithm),
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
        await self._train(store, train_dataset, val_dataset, algorithm, showing_progress(store, self.progress))

    async def _dev_bundle(
        self,
        store: LightningStore,
        event: ExecutionEvent,
        train_dataset: Dataset[Any] | None,
        val_dataset: Dataset[Any] | None,
        algorithm: Algorithm,
    ) -> None:
        """Runs the algorithm and reports on its rollouts."""
        await self._train(store, train_dataset, val_dataset, algorithm, reporting(store, self.adapter))

    async def _train(
        self,
        store: LightningStore,
        train_dataset: Dataset[Any] | None,
        val_dataset: Dataset[Any] | None,
        algorithm: Algorithm,
        watched: AbstractAsyncContextManager[None],
    ) -> None:
        algorithm.set_trainer(self)
        if self.adapter is not None:
            algorithm.set_adapter(self.adapter)
        if self.initial_resources is not None:
            algorithm.set_initial_resources(self.initial_resources)
        if self.llm_proxy is not None:
            self.llm_proxy.set_store(store)
            algorithm.set_llm_proxy(self.llm_proxy)
        run = functools.partial(algorithm.run, train_dataset=train_dataset, val_dataset=val_dataset)
        # What it does, such as asking models, is no part of the attempt that an agent of this process works on.
        with nowhere():
            async with watched:
                if algorithm.is_async():
                    algorithm.set_store(store)
                    await run()
                else:
                    await _run_beside_the_loop(algorithm, run, store)

    async def _runner_bundle(
        self, store: LightningStore, worker_id: int, event: ExecutionEvent, agent: LitAgent[Any]
    ) -> None:
        """Runs one runner until `event` is set."""
        agent.set_trainer(self)
        runner = self.runner.for_worker()
        runner.init(agent, hooks=self.hooks)
        try:
            runner.init_worker(worker_id, store, worker_name=current_worker_name())
            try:
                await runner.iter(event=event)
            finally:
                runner.teardown_worker(worker_id)
        finally:
            runner.teardown()


class _AlgorithmSide:
    """The algorithm's side of a run, which takes along, when it is pickled, what runners are not sent."""

    def __init__(self, trainer: Trainer, bundle: AlgorithmBundle) -> None:
        self._trainer = trainer
        self._bundle = bundle

    async def __call__(self, store: LightningStore, event: ExecutionEvent) -> None:
        await self._bundle(store, event)

    def __reduce__(self) -> tuple[Any, ...]:
        carried = {name: value for name, value in self._trainer.__dict__.items() if name in _CARRIED}
        return _unpickled_side, (self._trainer, self._bundle, carried)


def _unpickled_side(trainer: Trainer, bundle: AlgorithmBundle, carried: dict[str, Any]) -> _AlgorithmSide:
    # What was not made yet is made here when it is needed.
    for name in _CARRIED:
        trainer.__dict__.pop(name, None)
    trainer.__dict__.update(carried)
    return _AlgorithmSide(trainer, bundle)


async def _run_beside_the_loop(algorithm: Algorithm, run: Callable[[], Any], store: LightningStore) -> None:
    """Runs a plain algorithm in a thread of its own, with a store that it need not await."""
    blocking = BlockingStore(store, asyncio.get_running_loop(), awaitable_on_loops=True)
    # It stands in for the store, and its methods cannot have the types of that.
    algorithm.set_store(cast("LightningStore", blocking))
    try:
        result = await run_in_thread(run)
        if inspect.isawaitable(result):
            await result
    finally:
        blocking.detach("the run that it was for has ended")


def _built(spec: object, kind: type[Any], name: str, default: object = None, **options: Any) -> Any:
    return build_component(default if spec is None else spec, expected_type=kind, spec_name=name, **options)


def _adapter(spec: object) -> Any:
    return _built(spec, AdapterLike, "adapter", dict_requires_type=False, dict_default_cls=_DEFAULT_ADAPTER)


def _renamed(old_name: str, old: T | None, new_name: str, new: T | None) -> T | None:
    if old is None:
        return new
    _deprecated(f"Trainer({old_name}=...)", f"Trainer({new_name}=...)", depth=4)
    return old if new is None else new


def _deprecated(old: str, new: str, *, depth: int) -> None:
    warnings.warn(f"{old} is deprecated; use {new}", DeprecationWarning, stacklevel=depth)
