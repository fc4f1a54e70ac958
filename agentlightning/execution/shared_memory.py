"""The shared-memory strategy: algorithm and runners in threads of one process, around one store object."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from agentlightning.env_var import LightningEnvVar, resolve_bool_env_var
from agentlightning.execution.base import AlgorithmBundle, ExecutionStrategy, RunnerBundle
from agentlightning.execution.event_loop import run_to_the_end
from agentlightning.execution.events import ThreadingEvent
from agentlightning.execution.runner_pool import RunnerPool
from agentlightning.execution.side import Side, TaskSide, ThreadSide, outcome_of, run_runner
from agentlightning.execution.signals import ending_on_signals, interrupting_what_blocks
from agentlightning.execution.supervision import CANCEL_SECONDS, dismissing, run_algorithm
from agentlightning.execution.worker_names import local_name

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

MainThread = Literal["runner", "algorithm"]

_MAX_RESTARTS: Final = 2


class SharedMemoryExecutionStrategy(ExecutionStrategy):
    """Runs the algorithm and the runners in one process, each with an event loop of its own.

    One of them has the main thread, the others have threads. Nothing is sent anywhere, so agents and algorithms may be
    anything, such as functions inside functions and cells of a notebook. They share Python's interpreter lock: for
    agents that compute, and for agents that may bring their process down, take the client-server strategy. So do for
    agents that may hang in a thread of `asyncio.to_thread`: the run ends without them, but Python's own end waits.

    A runner that crashes, which no error of an agent makes it do, is started again up to 2 times. When no runner is
    left and one crashed, the run ends with an error. So it does when all have left after their `max_rollouts`,
    rollouts still wait, and nobody else can come to run them.
    """

    alias = "shm"

    def __init__(
        self,
        n_runners: int = 1,
        main_thread: MainThread | None = None,
        join_timeout: float = 15.0,
        graceful_delay: float = 5.0,
        poll_interval: float = 0.05,
        managed_store: bool | None = None,
    ) -> None:
        """Configures the strategy.

        Args:
            n_runners: How many runners.
            main_thread: Which side has the main thread, where debuggers feel at home. With `runner` there can be only
                one. None means `runner` if there is one, else `algorithm`.
            join_timeout: Seconds that runners get to abort the rollouts at work, before their threads are left behind.
            graceful_delay: Seconds that they get before that, when the algorithm has ended, to finish those.
            poll_interval: Accepted as in 0.3.0, without effect: nothing is polled.
            managed_store: Whether a store that is not thread-safe is wrapped so that it is (`AGL_MANAGED_STORE`, else
                true).

        Raises:
            ValueError: An argument or environment variable is not one of the possible ones.
        """
        if n_runners < 1:
            raise ValueError(f"n_runners must be at least 1, not {n_runners}")
        if main_thread is not None and main_thread not in get_args(MainThread):
            raise ValueError(f"main_thread must be runner or algorithm, not {main_thread!r}")
        if main_thread == "runner" and n_runners != 1:
            raise ValueError(f'main_thread="runner" has room for one runner, not for {n_runners}')
        self.n_runners = n_runners
        self.main_thread: MainThread = main_thread or ("runner" if n_runners == 1 else "algorithm")
        self.join_timeout = join_timeout
        self.graceful_delay = graceful_delay
        self.poll_interval = poll_interval
        self.managed_store = resolve_bool_env_var(LightningEnvVar.AGL_MANAGED_STORE, managed_store, fallback=True)

    def execute(self, algorithm: AlgorithmBundle, runner: RunnerBundle, store: LightningStore) -> None:
        """Runs both to their end; see the class.

        Raises:
            RuntimeError: No runner is left and at least one crashed or rollouts still wait for one, or an agent blocked
                the event loop of the main thread when the algorithm had ended.
            KeyboardInterrupt: Ctrl+C was pressed. Rollouts at work have been reported as cancelled; pressed twice,
                the threads have been left behind.
            SystemExit: The same with SIGTERM, where the program does not handle that itself.
            Exception: What the algorithm raised.
        """
        pool = RunnerPool(self.n_runners, _MAX_RESTARTS)
        try:
            patience = self.graceful_delay + self.join_timeout + CANCEL_SECONDS
            with ending_on_signals(), interrupting_what_blocks(patience) as watch:
                run_to_the_end(self._run(algorithm, runner, pool, store, watch))
        finally:
            pool.kill()

    async def _run(
        self,
        algorithm: AlgorithmBundle,
        runner: RunnerBundle,
        pool: RunnerPool,
        store: LightningStore,
        watch: Callable[[Side], None],
    ) -> None:
        async with self._shareable(store) as shared:
            here = self.main_thread == "runner"
            kind: type[TaskSide | ThreadSide] = TaskSide if here else ThreadSide
            pool.start(
                lambda number: kind(f"runner {number}", partial(run_runner, runner, number, local_name(number), shared))
            )
            working: Coroutine[Any, Any, None]
            tell: Callable[[], None]
            if here:
                side = ThreadSide("algorithm", partial(algorithm, shared))
                watch(side)
                working, tell = outcome_of(side, patience=CANCEL_SECONDS), partial(side.order, "finish")
            else:
                event = ThreadingEvent()
                working, tell = algorithm(shared, event), event.set
            async with dismissing(pool, graceful=self.graceful_delay, terminate=self.join_timeout):
                await run_algorithm(working, pool, shared, tell=tell, others_may_come=_is_reached_by_others(store))

    @asynccontextmanager
    async def _shareable(self, store: LightningStore) -> AsyncIterator[LightningStore]:
        """Yields the store as several threads may use it."""
        if not self.managed_store or store.capabilities.get("thread_safe", False):
            yield store
            return
        from agentlightning.store.threading import LightningStoreThreaded

        threaded = LightningStoreThreaded(store)
        try:
            yield threaded
        finally:
            threaded.stop()


def _is_reached_by_others(store: LightningStore) -> bool:
    from agentlightning.store.client import LightningStoreClient
    from agentlightning.store.server import LightningStoreServer

    return isinstance(store, (LightningStoreClient, LightningStoreServer))
