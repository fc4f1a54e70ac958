"""The client-server strategy: runners in processes of their own, which meet the algorithm at a store server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from agentlightning.env_var import (
    LightningEnvVar,
    resolve_bool_env_var,
    resolve_int_env_var,
    resolve_str_env_var,
)
from agentlightning.execution.base import AlgorithmBundle, ExecutionStrategy, RunnerBundle
from agentlightning.execution.events import ThreadingEvent
from agentlightning.execution.runner_pool import RunnerPool, check_spawnable

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

logger = logging.getLogger(__name__)

Role = Literal["algorithm", "runner", "both"]

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 4747
"""Where a server listens, and runners look for it, when nothing else is said."""
_ROLES: Final = ("algorithm", "runner", "both")
_CANCEL_SECONDS: Final = 5.0


class ClientServerExecutionStrategy(ExecutionStrategy):
    """Serves the store over gRPC and runs each runner in a spawned process that connects to it.

    A store that is a `LightningStoreClient` already is used as it is: runners connect to where it connects. So is a
    `LightningStoreServer`, which must have been started.

    Runner processes import the main script, so that must keep what it does under `if __name__ == "__main__":`, and
    agents must be picklable, which decorated functions and classes of a module or script are. The processes leave
    when the algorithm ends, when they are told to by Ctrl+C, and when this process dies. One that dies is logged with
    its exit code; when none is left and one died, the run ends with an error.

    The role splits a run over machines: `algorithm` serves and runs the algorithm only, `runner` runs runners only,
    `both` does it all here.
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
        main_process: Literal["algorithm"] = "algorithm",
        managed_store: bool | None = None,
        allowed_exit_codes: Sequence[int] = (0, -15),
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
            main_process: Which side runs in this process; only `algorithm`.
            managed_store: Whether to serve the store here (`AGL_MANAGED_STORE`, else true). Otherwise runners get the
                store itself, which must be picklable and work across processes.
            allowed_exit_codes: Exit codes of runner processes that are not taken for a crash.

        Raises:
            ValueError: An argument or environment variable is not one of the possible ones.
        """
        resolved = resolve_str_env_var(LightningEnvVar.AGL_CURRENT_ROLE, role, fallback="both")
        if resolved not in _ROLES:
            raise ValueError(f"the role must be one of {', '.join(_ROLES)}, not {resolved!r}")
        if main_process != "algorithm":
            raise ValueError(f"main_process={main_process!r} is not supported; the algorithm runs in the main process")
        if n_runners < 1:
            raise ValueError(f"n_runners must be at least 1, not {n_runners}")
        self.role = cast("Role", resolved)
        self.server_host = resolve_str_env_var(LightningEnvVar.AGL_SERVER_HOST, server_host, fallback=DEFAULT_HOST)
        self.server_port = resolve_int_env_var(
            LightningEnvVar.AGL_SERVER_PORT, server_port, fallback=0 if self.role == "both" else DEFAULT_PORT
        )
        self.n_runners = n_runners
        self.graceful_timeout = graceful_timeout
        self.terminate_timeout = terminate_timeout
        self.managed_store = resolve_bool_env_var(LightningEnvVar.AGL_MANAGED_STORE, managed_store, fallback=True)
        self.allowed_exit_codes = tuple(allowed_exit_codes)

    def execute(self, algorithm: AlgorithmBundle, runner: RunnerBundle, store: LightningStore) -> None:
        """Runs this process's part of the run to its end; see the class.

        Raises:
            RuntimeError: No runner is left and at least one died, or the script lacks a main guard.
            TypeError: The agent cannot be sent to runner processes.
            OSError: The server cannot listen on its address.
            KeyboardInterrupt: Ctrl+C was pressed. Rollouts at work have been reported as cancelled; pressed twice, the
                runners have been killed.
            Exception: What the algorithm raised.
        """
        if self.role == "algorithm":
            asyncio.run(self._run_algorithm(algorithm, store))
        elif self.role == "runner" and self.n_runners == 1:
            asyncio.run(self._run_one_runner(runner, store))
        else:
            check_spawnable(runner)
            pool = RunnerPool(runner, self.n_runners, self.allowed_exit_codes)
            try:
                if self.role == "both":
                    asyncio.run(self._run_both(algorithm, pool, store))
                else:
                    asyncio.run(self._run_pool(pool, store))
            finally:
                pool.kill()

    async def _run_algorithm(self, algorithm: AlgorithmBundle, store: LightningStore) -> None:
        async with self._served(store):
            await algorithm(store, ThreadingEvent())

    async def _run_one_runner(self, runner: RunnerBundle, store: LightningStore) -> None:
        async with self._connected(store) as remote:
            await runner(remote, 0, ThreadingEvent())

    async def _run_pool(self, pool: RunnerPool, store: LightningStore) -> None:
        async with self._connected(store) as remote:
            pool.start(remote)
            async with self._dismissing(pool):
                await pool.wait_until_left()
            if failures := pool.failures():
                raise RuntimeError("; ".join(runner.describe_end() for runner in failures))

    async def _run_both(self, algorithm: AlgorithmBundle, pool: RunnerPool, store: LightningStore) -> None:
        async with self._served(store) as remote:
            pool.start(remote)
            event = ThreadingEvent()
            async with self._dismissing(pool):
                await _while_runners_live(algorithm(store, event), pool, event)

    @asynccontextmanager
    async def _dismissing(self, pool: RunnerPool) -> AsyncIterator[None]:
        """Has the runners leave after the block: in peace if that ended well, else at once."""
        try:
            yield
        except BaseException:
            await self._dismiss(pool, in_peace=False)
            raise
        await self._dismiss(pool, in_peace=True)

    async def _dismiss(self, pool: RunnerPool, *, in_peace: bool) -> None:
        if in_peace:
            pool.order("finish")
            if await _within(pool.wait_until_left(), self.graceful_timeout):
                return
            logger.warning("runners are still at work after %.0f s; aborting their rollouts", self.graceful_timeout)
        pool.order("abort")
        await _within(pool.wait_until_left(), self.terminate_timeout)

    @asynccontextmanager
    async def _served(self, store: LightningStore) -> AsyncIterator[LightningStore]:
        """Serves `store` during the block and yields what to send to runner processes."""
        from agentlightning.store.client import LightningStoreClient
        from agentlightning.store.server import LightningStoreServer

        if not self.managed_store or isinstance(store, (LightningStoreClient, LightningStoreServer)):
            yield store
            return
        server = LightningStoreServer(store, self.server_host, self.server_port)
        await server.start()
        try:
            logger.info("the store is served at %s", server.endpoint)
            # In another process it turns into a client of itself.
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


async def _while_runners_live(algorithm: Coroutine[Any, Any, None], pool: RunnerPool, event: ThreadingEvent) -> None:
    working = asyncio.create_task(algorithm)
    left = asyncio.create_task(pool.wait_until_left())
    try:
        await asyncio.wait({working, left}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            event.set()
            if failures := pool.failures():
                raise RuntimeError(
                    "no runner is left to run rollouts: "
                    + "; ".join(runner.describe_end() for runner in failures)
                    + ". What the runners printed says more"
                )
            # An algorithm that looks at the event ends now.
            await asyncio.wait({working}, timeout=1.0)
            if not working.done():
                logger.warning("all runners have done their max_rollouts and left; the algorithm goes on without them")
        await working
    finally:
        left.cancel()
        working.cancel()
        await asyncio.wait({working}, timeout=_CANCEL_SECONDS)


async def _within(awaitable: Coroutine[Any, Any, None], seconds: float) -> bool:
    try:
        await asyncio.wait_for(awaitable, seconds)
    except asyncio.TimeoutError:
        return False
    return True
