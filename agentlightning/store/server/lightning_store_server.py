"""`LightningStoreServer`: a store of this process, served to others."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Literal

from agentlightning.env_var import LightningEnvVar, resolve_int_env_var, resolve_str_env_var
from agentlightning.store.base import LightningStore, LightningStoreCapabilities
from agentlightning.store.client import LightningStoreClient
from agentlightning.store.face import StoreFace
from agentlightning.store.local import LocalStore
from agentlightning.store.server.server import StoreServer

_START_SECONDS = 10.0


class LightningStoreServer(StoreFace):
    """Serves a store over gRPC from a thread of its own, and is that store for this process.

    In another process it is a `LightningStoreClient` to itself: that is what it is pickled as.

    Args:
        store: The store to serve: `InMemoryLightningStore` or `SqliteLightningStore`.
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
                f"LightningStoreServer serves InMemoryLightningStore and SqliteLightningStore, not "
                f"{type(store).__name__}: a class of your own has no gRPC service."
            )
        given = {"cors_allow_origins": cors_allow_origins, "launcher_args": launcher_args, "tracker": tracker}
        unsupported = [name for name, value in given.items() if value is not None]
        if unsupported or launch_mode == "mp" or n_workers != 1:
            raise ValueError(
                f"{', '.join(unsupported) or 'launch_mode=mp and n_workers above 1'}: not supported by this server; "
                "for a server in a process of its own run `python -m agentlightning.store_grpc`"
            )
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

        asyncio.run(serve())

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
