"""Training against a legacy server."""

from __future__ import annotations

import asyncio
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from agentlightning.algorithm.base import Algorithm
from agentlightning.client import AgentLightningClient
from agentlightning.execution.events import ExecutionEvent, ThreadingEvent
from agentlightning.execution.process_side import ProcessSide, check_sendable
from agentlightning.execution.runner_pool import RunnerPool
from agentlightning.execution.signals import ending_on_signals
from agentlightning.execution.supervision import dismissing
from agentlightning.runner.legacy import LegacyAgentRunner
from agentlightning.types import Dataset

if TYPE_CHECKING:
    from agentlightning.litagent.litagent import LitAgent
    from agentlightning.store.base import LightningStore
    from agentlightning.tracer.base import Tracer

_MAX_RESTARTS: Final = 3
_GRACEFUL_SECONDS: Final = 10.0
_TERMINATE_SECONDS: Final = 10.0


class TrainerLegacy:
    """What a trainer offers to programs that were written for a legacy server.

    Attributes:
        algorithm: What trains; None where that is done elsewhere.
        n_runners: How many runners.
        max_rollouts: How many tasks each runner does before it leaves; None sets no limit.
        tracer: What records the agent.
        adapter: What makes triplets of the spans.
    """

    algorithm: Algorithm | None
    n_runners: int
    max_rollouts: int | None
    tracer: Tracer

    _client: AgentLightningClient | None = None

    if TYPE_CHECKING:
        store: LightningStore

        async def _algorithm_bundle(
            self,
            store: LightningStore,
            event: ExecutionEvent,
            train_dataset: Dataset[Any] | None,
            val_dataset: Dataset[Any] | None,
            algorithm: Algorithm | None,
        ) -> None: ...

    def init(self, backend: str | AgentLightningClient) -> None:
        """Notes the server that tasks come from.

        Args:
            backend: Its URL, or a client of it.
        """
        self._client = _client_of(backend)

    def teardown(self) -> None:
        """Forgets the server."""
        self._client = None

    def client(self) -> AgentLightningClient:
        """Returns the client of the server that tasks come from.

        Raises:
            RuntimeError: There is none: `init` or `fit_v0` makes it.
        """
        if self._client is None:
            raise RuntimeError("the trainer has no client of a legacy server: call init(backend) or fit_v0 first")
        return self._client

    def fit_v0(
        self,
        agent: LitAgent[Any],
        train_data: str | AgentLightningClient | Dataset[Any],
        *,
        val_data: str | AgentLightningClient | Dataset[Any] | None = None,
        dev_data: str | AgentLightningClient | Dataset[Any] | None = None,
        dev_backend: str | AgentLightningClient | None = None,
    ) -> None:
        """Runs an agent on the tasks of a legacy server. Deprecated: use `fit` with a store.

        The server is the first of `dev_backend`, `dev_data`, `train_data` and `val_data` that is a URL or a client, or
        else the one that the algorithm names in `get_client`. With an algorithm, it runs here, on those of
        `train_data` and `val_data` that are datasets, until it ends; without one, the runners run until each has done
        `max_rollouts` tasks. One runner without an algorithm runs in this process, others in processes of their own.

        Args:
            agent: The agent.
            train_data: The server, or the samples to learn from.
            val_data: The server, or the samples to judge by.
            dev_data: A server to use instead while the agent is developed.
            dev_backend: The same.

        Raises:
            ValueError: No server is named, and there is no algorithm to name one.
            TypeError: The agent cannot be sent to runner processes.
            RuntimeError: It is called on a running event loop, or the runners died.
            RequestRefusedError: The server has no tasks to give.
            KeyboardInterrupt: Ctrl+C was pressed; the runners have left.
            Exception: What the algorithm raised.
        """
        warnings.warn("fit_v0 is deprecated; use fit with a store", DeprecationWarning, stacklevel=2)
        backend = self._backend(dev_backend, dev_data, train_data, val_data)
        self._fit_legacy(backend, agent, _dataset(train_data), _dataset(val_data))

    def _fit_legacy(
        self,
        backend: str | AgentLightningClient,
        agent: LitAgent[Any],
        train_dataset: Dataset[Any] | None,
        val_dataset: Dataset[Any] | None,
    ) -> None:
        expect_no_running_loop("fit_v0")
        self.init(backend)
        pool = RunnerPool(self.n_runners, max_restarts=_MAX_RESTARTS)
        agent.set_trainer(self)  # type: ignore[arg-type]  # a Trainer, which this class is a part of
        try:
            with ending_on_signals():
                asyncio.run(self._run_v0(agent, pool, train_dataset, val_dataset))
        finally:
            pool.kill()
            self.teardown()

    @staticmethod
    def kill_orphaned_processes() -> None:
        """Does nothing: runner processes leave by themselves when the process that started them is gone."""

    def _backend(self, *data: Any) -> str | AgentLightningClient:
        for item in data:
            if isinstance(item, (str, AgentLightningClient)):
                return item
        if self.algorithm is None:
            raise ValueError(
                "fit_v0 needs a server to take tasks from: pass its URL or a client of it as train_data, or give the "
                "trainer an algorithm that has a client"
            )
        backend: str | AgentLightningClient = self.algorithm.get_client()
        return backend

    async def _run_v0(
        self,
        agent: LitAgent[Any],
        pool: RunnerPool,
        train_dataset: Dataset[Any] | None,
        val_dataset: Dataset[Any] | None,
    ) -> None:
        # Not a part of what is sent of a trainer.
        work = partial(_work, self, agent, self.client(), getattr(self, "adapter", None))
        if self.n_runners == 1 and self.algorithm is None:
            await work(0, ThreadingEvent())
            return
        check_sendable("the agent", work, "Define it at the top level of a module or script, not inside a function.")
        pool.start(lambda number: ProcessSide(f"runner {number}", partial(work, number)))
        async with dismissing(pool, graceful=_GRACEFUL_SECONDS, terminate=_TERMINATE_SECONDS):
            left = asyncio.ensure_future(pool.wait_until_left())
            if self.algorithm is not None:
                event = ThreadingEvent()
                training = self._algorithm_bundle(self.store, event, train_dataset, val_dataset, self.algorithm)
                working = asyncio.ensure_future(training)
                try:
                    await asyncio.wait({working, left}, return_when=asyncio.FIRST_COMPLETED)
                    if working.done() or not pool.failures():
                        await working
                        return
                finally:
                    event.set()
                    working.cancel()
            await left
            if pool.failures():
                raise RuntimeError(pool.describe_failures())


def expect_no_running_loop(caller: str) -> None:
    """Refuses to block a running event loop.

    Args:
        caller: The method of the trainer that was called.

    Raises:
        RuntimeError: It was called on one.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(
        f"{caller} blocks until the run ends, and so cannot be called on a running event loop: call it from "
        f"synchronous code, or `await asyncio.to_thread(trainer.{caller}, ...)`"
    )


async def _work(
    trainer: TrainerLegacy,
    agent: LitAgent[Any],
    client: AgentLightningClient,
    adapter: Any,
    worker_id: int,
    event: ExecutionEvent,
) -> None:
    """Runs one runner until it has done its tasks, or the event is set."""
    agent.set_trainer(trainer)  # type: ignore[arg-type]
    tracer = trainer.tracer
    tracer.init()
    try:
        tracer.init_worker(worker_id)
        try:
            runner = LegacyAgentRunner(agent, client, tracer, adapter, worker_id, trainer.max_rollouts)
            await runner.iter_async(event)
        finally:
            tracer.teardown_worker(worker_id)
    finally:
        tracer.teardown()


def _client_of(backend: str | AgentLightningClient) -> AgentLightningClient:
    if isinstance(backend, AgentLightningClient):
        return backend
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # whoever called has been told
        return AgentLightningClient(backend)


def _dataset(data: str | AgentLightningClient | Dataset[Any] | None) -> Dataset[Any] | None:
    return None if isinstance(data, (str, AgentLightningClient)) else data
