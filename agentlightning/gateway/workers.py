"""A gateway in several processes, which share one listening socket."""

from __future__ import annotations

import asyncio
import itertools
import logging
import multiprocessing
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Final

from agentlightning.gateway.app import create_app
from agentlightning.gateway.core import Gateway
from agentlightning.gateway.settings import HTTP_SETTINGS, GatewaySettings, GatewayState
from agentlightning.store.base import LightningStore
from agentlightning.store.local import LocalStore
from agentlightning.utils.http_serving import QuietUvicorn, listen

logger = logging.getLogger(__name__)

_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 10.0
_RESTART_SECONDS: Final = 1.0
_READY: Final = 0


class ProcessServing:
    """Gateways in processes of their own, which reach the store over gRPC. One that dies is started again.

    Args:
        settings: The settings; picklable.
        host: Host to listen on.
        port: Port to listen on, 0 for a free one.
        count: How many processes.
    """

    def __init__(self, settings: GatewaySettings, host: str, port: int, count: int) -> None:
        self._settings = settings
        self._host = host
        self._count = count
        self._workers: list[_Worker] = []
        self._store_server: Any = None
        self._listener: socket.socket | None = None
        self.port = port
        """The port; with 0 known once started."""

    async def start(self, state: Callable[[], GatewayState], store: LightningStore) -> None:
        """Returns when all processes answer calls.

        Raises:
            OSError: The address cannot be listened on.
            RuntimeError: A process did not start.
            ValueError: The store cannot be reached from other processes.
        """
        reachable = await self._reachable(store)
        self._listener = listen(self._host, self.port)
        self.port = self._listener.getsockname()[1]
        try:
            self._workers = [_Worker(self._settings, state, reachable, self._listener) for _ in range(self._count)]
            await asyncio.gather(*(asyncio.wrap_future(worker.ready) for worker in self._workers))
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Finishes the calls at work, for up to 5 s, and listens no more."""
        await asyncio.gather(*(asyncio.to_thread(worker.stop) for worker in self._workers))
        if self._listener is not None:
            self._listener.close()
        if self._store_server is not None:
            await self._store_server.stop()

    def submit(self, command: str, *arguments: Any) -> list[Future[Any]]:
        """Has each gateway carry a command out; see `Gateway.submit`."""
        return [worker.submit(command, *arguments) for worker in self._workers]

    async def _reachable(self, store: LightningStore) -> LightningStore:
        """Returns the store as other processes can have it."""
        if store.capabilities.get("zero_copy"):
            return store
        if not isinstance(store, LocalStore):
            raise ValueError(
                f"{type(store).__name__} cannot be reached from other processes: serve the gateway from a thread "
                "(num_workers=1, launch_mode='thread')"
            )
        from agentlightning.store.server import LightningStoreServer

        server = LightningStoreServer(store, "127.0.0.1", 0)
        await server.start()
        self._store_server = server
        return server


class _Worker:
    """One process, as its parent has it."""

    def __init__(
        self,
        settings: GatewaySettings,
        state: Callable[[], GatewayState],
        store: LightningStore,
        listener: socket.socket,
    ) -> None:
        self.ready: Future[None] = Future()
        """Is done when the process answers calls, or has failed to start."""
        self._settings = settings
        self._state = state
        self._store = store
        self._listener = listener
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._numbers = itertools.count(_READY + 1)
        self._pending: dict[int, Future[Any]] = {}
        self._begin()
        self._thread = threading.Thread(target=self._attend, name="agentlightning-gateway-worker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Returns when the process has ended."""
        with self._lock:
            self._stopping.set()
            # One that has just died is not started again, so it need not hear of it.
            with suppress(OSError):
                self._orders.send(None)
        # The thread waits for the process, because the exit code goes to whoever asks the system first.
        self._thread.join(_STOP_SECONDS)
        if self._thread.is_alive():
            logger.warning("gateway process %s does not leave and is killed", self._process.pid)
            self._process.kill()
            self._thread.join()

    def submit(self, command: str, *arguments: Any) -> Future[Any]:
        """Has the gateway of the process carry a command out."""
        future: Future[Any] = Future()
        with self._lock:
            number = next(self._numbers)
            self._pending[number] = future
            try:
                self._orders.send((number, command, arguments))
            except OSError:
                # It is about to be started again, and will begin with how things stand then.
                self._pending.pop(number).set_result(None)
        return future

    def _begin(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._orders, theirs = context.Pipe()
        arguments = (theirs, self._listener, self._settings, self._state(), self._store)
        self._process = context.Process(target=serve, args=arguments, name="agl-gateway", daemon=True)
        self._process.start()
        theirs.close()

    def _attend(self) -> None:
        while True:
            self._receive()
            self._process.join()
            for future in self._drop_pending():
                with suppress(InvalidStateError):
                    future.set_result(None)
            if not self.ready.done():
                self.ready.set_exception(RuntimeError("a gateway process did not start; its output says why"))
                return
            self._stopping.wait(_RESTART_SECONDS)
            with self._lock:
                if self._stopping.is_set():
                    return
                logger.warning("a gateway process ended with exit code %s; it is started again", self._process.exitcode)
                self._begin()

    def _receive(self) -> None:
        try:
            while True:
                number, result, error = self._orders.recv()
                future = self.ready if number == _READY else self._pending.pop(number)
                # Whoever asked may have given up, and a process that is started again is ready once more.
                with suppress(InvalidStateError):
                    if error is not None:
                        future.set_exception(error)
                    else:
                        future.set_result(result)
        except (EOFError, OSError):
            self._orders.close()

    def _drop_pending(self) -> list[Future[Any]]:
        with self._lock:
            dropped, self._pending = list(self._pending.values()), {}
        return dropped


def serve(
    orders: Connection, listener: socket.socket, settings: GatewaySettings, state: GatewayState, store: LightningStore
) -> None:
    """Runs a gateway in this process until the pipe says so or ends.

    Args:
        orders: Where commands come from, and answers go.
        listener: The socket that it shares with others.
        settings: The settings.
        state: How the gateway stands.
        store: Where spans go.
    """
    # Ctrl+C is the parent's, which ends the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gateway = Gateway(settings, state, store)
    server = QuietUvicorn(create_app(gateway), before_shutdown=gateway.end_waits, **HTTP_SETTINGS)
    thread = threading.Thread(target=server.run_on, args=(listener,), name="agentlightning-gateway", daemon=True)
    thread.start()
    server.ready.result(_START_SECONDS)
    lock = threading.Lock()

    def answer(number: int, result: Any = None, error: BaseException | None = None) -> None:
        with lock:
            orders.send((number, result, error))

    def answer_of(number: int, future: Future[Any]) -> None:
        error = future.exception()
        answer(number, None if error else future.result(), error)

    answer(_READY)
    try:
        while (order := orders.recv()) is not None:
            number, command, arguments = order
            gateway.submit(command, *arguments).add_done_callback(partial(answer_of, number))
    except EOFError:
        pass
    server.should_exit = True
    thread.join()
