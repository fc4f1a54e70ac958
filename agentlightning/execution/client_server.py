"""The client-server strategy: runners in processes of their own, which meet the algorithm at a store server."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args

from agentlightning.env_var import (
    LightningEnvVar,
    resolve_bool_env_var,
    resolve_int_env_var,
    resolve_str_env_var,
)
from agentlightning.execution.base import AlgorithmBundle, ExecutionStrategy, RunnerBundle
from agentlightning.execution.child_process import run_with_store
from agentlightning.execution.event_loop import run_to_the_end
from agentlightning.execution.events import ExecutionEvent, ThreadingEvent
from agentlightning.execution.identity import StoreIdentity, identity_of
from agentlightning.execution.process_side import ProcessSide, StartMethod, check_sendable
from agentlightning.execution.runner_pool import RunnerPool
from agentlightning.execution.side import Side, TaskSide, outcome_of, run_runner
from agentlightning.execution.signals import ending_on_signals, interrupting_what_blocks
from agentlightning.execution.supervision import CANCEL_SECONDS, dismissing, run_algorithm
from agentlightning.execution.worker_names import local_name, machine_wide_name

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore
    from agentlightning.store.server import LightningStoreServer

logger = logging.getLogger(__name__)

Role = Literal["algorithm", "runner", "both"]
MainProcess = Literal["algorithm", "runner"]

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 4747
"""Where a server listens, and runners look for it, when nothing else is said."""

_AGENT_ADVICE: Final = (
    "Define the agent at the top level of a module or script (not inside a function, and not as a lambda), and let it "
    "open connections, locks and models when it first needs them"
)
_ALGORITHM_ADVICE: Final = (
    'With main_process="runner" it runs in a process of its own: define it at the top level of a module or script, and '
    "give it datasets that can be pickled"
)
_STORE_ADVICE: Final = (
    "Leave managed_store on, which serves the store, or pass a LightningStoreClient of a store server"
)


class ClientServerExecutionStrategy(ExecutionStrategy):
    """Serves the store over gRPC and runs each runner in a process that connects to it.

    A store that is a `LightningStoreClient` already is used as it is: runners connect to where it connects. So is a
    `LightningStoreServer`, which must have been started.

    Runner processes import the main script, so that must keep what it does under `if __name__ == "__main__":`, and
    agents must be picklable, which decorated functions and classes of a module or script are. The processes leave
    when the algorithm ends, when they are told to by Ctrl+C or SIGTERM, and when this process dies. One that crashes
    is started again, up to `max_restarts` times; what it worked on is tried again as the rollout's config says, when
    its lease has run out. When no runner is left and one crashed, the run ends with an error. So it does when all have
    left after their `max_rollouts`, rollouts still wait, and nobody else can come to run them.

    The role splits a run over machines: `algorithm` serves and runs the algorithm only, `runner` runs runners only,
    `both` does it all here. A server that this strategy started tells the runners of other machines to leave when the
    algorithm has ended, and gives them the same time for it as its own.
    """

    alias = "cs"

    def __init__(
        self,
        role: Role | None = None,
        server_host: str | None = None,
        server_port: int | None = None,
        n_runners: int = 1,
        graceful_timeout: float = 10.0,
        terminate_timeout: float = 10.0,
        main_process: MainProcess = "algorithm",
        managed_store: bool | None = None,
        allowed_exit_codes: Sequence[int] = (0, -15),
        *,
        max_restarts: int = 3,
        start_method: StartMethod = "spawn",
        insecure: bool = False,
    ) -> None:
        """Configures the strategy. What is None comes from the environment variable named, or else the default.

        Args:
            role: What this process does (`AGL_CURRENT_ROLE`, else `both`).
            server_host: Where the server listens, and runners connect (`AGL_SERVER_HOST`, else 127.0.0.1).
            server_port: Its port (`AGL_SERVER_PORT`). Otherwise 4747, or, in the role `both`, where nobody else needs
                to know it, any free one.
            n_runners: How many runner processes.
            graceful_timeout: Seconds that runners get to finish the rollouts at work when the algorithm has ended.
            terminate_timeout: Seconds that they get after that to abort them, before they are killed.
            main_process: Which side runs in this process. With `runner` that is the one runner, for a debugger, and
                the algorithm runs in a process of its own, so it must be picklable too; what it leaves on itself is
                lost.
            managed_store: Whether to serve the store here (`AGL_MANAGED_STORE`, else true). Otherwise runners get the
                store itself, which must be picklable and work across processes.
            allowed_exit_codes: Exit codes of runner processes that are not taken for a crash.
            max_restarts: How often each runner process that crashed is started again, in all; after 1 s, 2 s, 4 s
                and so on.
            start_method: How processes are started, `spawn` or `forkserver`. gRPC does not survive `fork`.
            insecure: True allows a `server_host` that other machines can reach, though nothing is encrypted and nobody
                is asked who he is.

        Raises:
            ValueError: An argument or environment variable is not one of the possible ones.
        """
        resolved = resolve_str_env_var(LightningEnvVar.AGL_CURRENT_ROLE, role, fallback="both")
        if resolved not in get_args(Role):
            raise ValueError(f"the role must be one of {', '.join(get_args(Role))}, not {resolved!r}")
        if n_runners < 1:
            raise ValueError(f"n_runners must be at least 1, not {n_runners}")
        if main_process not in get_args(MainProcess):
            raise ValueError(f"main_process must be algorithm or runner, not {main_process!r}")
        if main_process == "runner" and (resolved != "both" or n_runners != 1):
            raise ValueError(
                f'main_process="runner" needs the role both and one runner, not the role {resolved} and n_runners='
                f"{n_runners}"
            )
        if max_restarts < 0:
            raise ValueError(f"max_restarts must be at least 0, not {max_restarts}")
        if start_method not in get_args(StartMethod):
            raise ValueError(
                f"start_method must be spawn or forkserver, not {start_method!r}: a process that is forked from this "
                "one cannot use gRPC"
            )
        self.role = cast("Role", resolved)
        self.server_host = resolve_str_env_var(LightningEnvVar.AGL_SERVER_HOST, server_host, fallback=DEFAULT_HOST)
        port = resolve_int_env_var(LightningEnvVar.AGL_SERVER_PORT, server_port)
        self.server_port = (0 if self.role == "both" else DEFAULT_PORT) if port is None else port
        self.n_runners = n_runners
        self.graceful_timeout = graceful_timeout
        self.terminate_timeout = terminate_timeout
        self.main_process = main_process
        self.managed_store = resolve_bool_env_var(LightningEnvVar.AGL_MANAGED_STORE, managed_store, fallback=True)
        self.allowed_exit_codes = tuple(allowed_exit_codes)
        self.max_restarts = max_restarts
        self.start_method: StartMethod = start_method
        self.insecure = insecure

    def execute(self, algorithm: AlgorithmBundle, runner: RunnerBundle, store: LightningStore) -> None:
        """Runs this process's part of the run to its end; see the class.

        Raises:
            RuntimeError: No runner is left and at least one crashed or rollouts still wait for one, the script lacks
                a main guard, another server has the address of this one, or an agent blocked the event loop of the
                main thread when the algorithm had ended.
            TypeError: What is to run in other processes cannot be sent there.
            ValueError: Others could reach the server, and `insecure` is not set.
            OSError: The server cannot listen on its address.
            KeyboardInterrupt: Ctrl+C was pressed. Rollouts at work have been reported as cancelled; pressed twice, the
                runners have been killed.
            SystemExit: The same with SIGTERM, where the program does not handle that itself.
            Exception: What the algorithm raised.
        """
        if self.main_process == "runner":
            check_sendable("the algorithm", algorithm, _ALGORITHM_ADVICE)
        elif self.role == "both" or (self.role == "runner" and self.n_runners > 1):
            check_sendable("the agent or its runner", runner, _AGENT_ADVICE)
        pool = RunnerPool(
            0 if self.role == "algorithm" else self.n_runners,
            # One in this process is there to be debugged.
            max_restarts=0 if self.main_process == "runner" else self.max_restarts,
        )
        try:
            patience = self.graceful_timeout + self.terminate_timeout + CANCEL_SECONDS
            with ending_on_signals(), interrupting_what_blocks(patience) as watch:
                if self.role == "algorithm":
                    run_to_the_end(self._run_algorithm(algorithm, pool, store))
                elif self.role == "runner":
                    run_to_the_end(self._run_runners(runner, pool, store))
                else:
                    run_to_the_end(self._run_both(algorithm, runner, pool, store, watch))
        finally:
            pool.kill()

    async def _run_algorithm(self, algorithm: AlgorithmBundle, pool: RunnerPool, store: LightningStore) -> None:
        async with self._served(store) as served, self._dismissing(pool, served):
            await algorithm(store, ThreadingEvent())

    async def _run_runners(self, runner: RunnerBundle, pool: RunnerPool, store: LightningStore) -> None:
        async with self._connected(store) as remote:
            if self.n_runners == 1:
                await run_runner(runner, 0, machine_wide_name(0), remote, ThreadingEvent())
                return
            pool.start(lambda number: self._runner_process(runner, number, machine_wide_name(number), remote))
            async with self._dismissing(pool):
                await pool.wait_until_left()
            if pool.failures():
                raise RuntimeError(pool.describe_failures())

    async def _run_both(
        self,
        algorithm: AlgorithmBundle,
        runner: RunnerBundle,
        pool: RunnerPool,
        store: LightningStore,
        watch: Callable[[Side], None],
    ) -> None:
        async with self._served(store) as served:
            shared = served or store
            check_sendable("the store", shared, _STORE_ADVICE)
            identity = await identity_of(shared)
            working: Coroutine[Any, Any, None]
            tell: Callable[[], None]
            if self.main_process == "runner":
                call = partial(run_runner, runner, 0, local_name(0), shared)
                pool.start(lambda number: TaskSide(f"runner {number}", call))
                side = self._process("algorithm", algorithm, shared, identity)
                watch(side)
                working, tell = outcome_of(side, patience=CANCEL_SECONDS), partial(side.order, "finish")
            else:
                pool.start(lambda number: self._runner_process(runner, number, local_name(number), shared, identity))
                event = ThreadingEvent()
                working, tell = algorithm(store, event), event.set
            async with self._dismissing(pool, served):
                others_may_come = served is None or self.server_port != 0
                await run_algorithm(working, pool, shared, tell=tell, others_may_come=others_may_come)

    def _dismissing(
        self, pool: RunnerPool, served: LightningStoreServer | None = None
    ) -> AbstractAsyncContextManager[None]:
        others = None
        if served is not None:
            others = partial(served.dismiss_workers, besides=[local_name(number) for number in range(self.n_runners)])
        return dismissing(pool, graceful=self.graceful_timeout, terminate=self.terminate_timeout, others=others)

    def _runner_process(
        self,
        runner: RunnerBundle,
        number: int,
        name: str,
        store: LightningStore,
        identity: StoreIdentity | None = None,
    ) -> ProcessSide:
        return self._process(f"runner {number}", partial(run_runner, runner, number, name), store, identity)

    def _process(
        self,
        name: str,
        call: Callable[[LightningStore, ExecutionEvent], Coroutine[Any, Any, None]],
        store: LightningStore,
        identity: StoreIdentity | None,
    ) -> ProcessSide:
        return ProcessSide(
            name,
            partial(run_with_store, call, store, identity),
            start_method=self.start_method,
            allowed_exit_codes=self.allowed_exit_codes,
        )

    @asynccontextmanager
    async def _served(self, store: LightningStore) -> AsyncIterator[LightningStoreServer | None]:
        """Serves `store` during the block, if that is to be done here, and yields the server.

        In another process it turns into a client of itself.
        """
        from agentlightning.store.client import LightningStoreClient
        from agentlightning.store.server import LightningStoreServer

        if not self.managed_store or isinstance(store, (LightningStoreClient, LightningStoreServer)):
            yield None
            return
        server = LightningStoreServer(store, self.server_host, self.server_port, insecure=self.insecure)
        await server.start()
        try:
            logger.info("the store is served at %s", server.endpoint)
            yield server
        finally:
            await server.stop()

    @asynccontextmanager
    async def _connected(self, store: LightningStore) -> AsyncIterator[LightningStore]:
        """Yields what runners of this process, or its children, reach the store by."""
        from agentlightning.store.client import LightningStoreClient

        if not self.managed_store or isinstance(store, LightningStoreClient):
            yield store
            return
        client = LightningStoreClient(f"{self.server_host}:{self.server_port}")
        try:
            yield client
        finally:
            await client.close()
