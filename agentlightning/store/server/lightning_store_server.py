"""`LightningStoreServer`: a store of this process, served to others."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Collection
from typing import Any, Final, Literal

from agentlightning.env_var import LightningEnvVar, resolve_int_env_var, resolve_str_env_var
from agentlightning.removed import describe_removed
from agentlightning.store.base import LightningStore, LightningStoreCapabilities
from agentlightning.store.client import LightningStoreClient
from agentlightning.store.face import StoreFace
from agentlightning.store.local import LocalStore
from agentlightning.store.server.server import StoreServer
from agentlightning.utils.loops import run

_START_SECONDS = 10.0
_PRESENT_SECONDS: Final = 90.0
"""A worker that has not been heard of for this long, which is more than a claim waits, is taken to be gone."""
_TURN_SECONDS: Final = 1.0
"""An idle worker asks for work again within this time, and hears that it is to leave."""


class LightningStoreServer(StoreFace):
    """Serves a store over gRPC from a thread of its own, and is that store for this process.

    In another process it is a `LightningStoreClient` to itself: that is what it is pickled as.

    Args:
        store: The store to serve: `InMemoryLightningStore`, `SqliteLightningStore` or `PostgresLightningStore`.
        host: Host to listen on; None means `AGL_SERVER_HOST`, else 127.0.0.1.
        port: Port to listen on, 0 for a free one; None means `AGL_SERVER_PORT`, else 4747.
        cors_allow_origins: Not supported; browsers do not speak gRPC.
        launch_mode: `thread` or `asyncio`, which mean the same here: a thread with an event loop of its own. For a
            server in a process of its own run `python -m agentlightning.store_grpc`.
        launcher_args: Not supported.
        n_workers: Only 1.
        tracker: Not supported.
        insecure: True allows a host that others can reach, though nothing is encrypted and nobody is asked who he is.

    Raises:
        TypeError: The store is of a class that has no gRPC service, such as a user's own.
        ValueError: An argument is not supported, or the host can be reached by others and `insecure` is not set.
    """

    def __init__(
        self,
        store: LightningStore,
        host: str | None = None,
        port: int | None = None,
        cors_allow_origins: Any = None,
        launch_mode: Literal["asyncio", "thread", "mp"] = "thread",
        launcher_args: Any = None,
        n_workers: int = 1,
        tracker: Any = None,
        *,
        insecure: bool = False,
    ) -> None:
        if not isinstance(store, LocalStore):
            raise TypeError(
                "LightningStoreServer serves InMemoryLightningStore, SqliteLightningStore and PostgresLightningStore, "
                f"not {type(store).__name__}: a class of your own has no gRPC service."
            )
        refused = {
            "cors_allow_origins=": cors_allow_origins is not None,
            "launch_mode='mp'": launch_mode == "mp",
            "launcher_args=": launcher_args is not None,
            "n_workers=": n_workers != 1,
            "tracker=": tracker is not None,
        }
        for argument, given in refused.items():
            if given:
                raise ValueError(describe_removed(f"LightningStoreServer({argument})"))
        super().__init__(store.engine)
        self.store = store
        self._server = StoreServer(
            store.engine,
            resolve_str_env_var(LightningEnvVar.AGL_SERVER_HOST, host, fallback="127.0.0.1"),
            resolve_int_env_var(LightningEnvVar.AGL_SERVER_PORT, port, fallback=4747),
            insecure=insecure,
        )
        self._thread: threading.Thread | None = None
        self._stopping: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def endpoint(self) -> str:
        """What `LightningStoreClient` connects to; with port 0 known once started."""
        return f"grpc://{self._server.address}"

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        return LightningStoreCapabilities(thread_safe=True, async_safe=True, zero_copy=True, otlp_traces=True)

    def otlp_traces_endpoint(self) -> str:
        """Return the address that takes spans over OTLP/gRPC, as exporters want it."""
        return f"http://{self._server.address}"

    async def start(self) -> None:
        """Listen; returns when clients can connect.

        Raises:
            OSError: The address cannot be listened on.
            RuntimeError: It is running already.
        """
        if self._thread is not None:
            raise RuntimeError(f"the server is running already, at {self.endpoint}")
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._thread = threading.Thread(
            target=self._serve, args=(asyncio.get_running_loop(), started), name="agentlightning-server", daemon=True
        )
        self._thread.start()
        try:
            await asyncio.wait_for(started, _START_SECONDS)
        except BaseException:
            self._thread = None
            raise

    def _serve(self, caller: asyncio.AbstractEventLoop, started: asyncio.Future[None]) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            self._stopping = asyncio.Event()
            try:
                await self._server.start()
            except BaseException as error:  # noqa: BLE001  the starter raises it
                caller.call_soon_threadsafe(_fail, started, error)
                return
            caller.call_soon_threadsafe(_succeed, started)
            await self._stopping.wait()
            await self._server.stop()

        run(serve())

    async def run_forever(self) -> None:
        """Serve until `stop` is called or this task is cancelled."""
        if self._thread is None:
            await self.start()
        thread = self._thread
        try:
            while thread is not None and thread.is_alive():
                await asyncio.to_thread(thread.join, 1.0)
        finally:
            await self.stop()

    async def dismiss_workers(self, timeout: float, *, cancel: bool = False, besides: Collection[str] = ()) -> bool:
        """Tell all workers to leave, and wait until they have.

        They hear it from their next claim or heartbeat, claims that wait being answered at once, and so do workers that
        come later, until the server stops. The store keeps no trace of it.

        Args:
            timeout: Longest wait, in seconds.
            cancel: Whether they are to stop the rollouts that they work on, and not to finish them.
            besides: Ids of workers not to wait for.

        Returns:
            Whether none of those that were heard of lately is still at work.
        """
        if self._thread is None or self._loop is None:
            return True
        self._loop.call_soon_threadsafe(functools.partial(self._server.dismiss_workers, cancel=cancel))
        began = time.monotonic()
        if not await self._present(besides):
            return True
        while True:
            waited = time.monotonic() - began
            if waited >= _TURN_SECONDS and not await self._present(besides, at_work=True):
                return True
            if waited >= timeout:
                return False
            await asyncio.sleep(0.1)

    async def _present(self, besides: Collection[str], *, at_work: bool = False) -> bool:
        since = time.time() - _PRESENT_SECONDS
        return any(
            worker.worker_id not in besides
            and max(worker.last_heartbeat_time or 0.0, worker.last_dequeue_time or 0.0) >= since
            for worker in await self.query_workers(status_in=["busy"] if at_work else None)
        )

    async def stop(self) -> None:
        """Listen no more; the store itself stays open. Does nothing when it is not running."""
        thread, self._thread = self._thread, None
        if thread is None or self._loop is None or self._stopping is None:
            return
        if thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            await asyncio.to_thread(thread.join)

    def __reduce__(self) -> tuple[Any, ...]:
        return LightningStoreClient, (self.endpoint,)


def _succeed(started: asyncio.Future[None]) -> None:
    if not started.done():
        started.set_result(None)


def _fail(started: asyncio.Future[None], error: BaseException) -> None:
    if not started.done():
        started.set_exception(error)
