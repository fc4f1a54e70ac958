"""Serving an application over HTTP from a thread of this process."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from agentlightning.utils.hosts import url_of

_GRACE_SECONDS = 5
# Longer than clients keep an idle connection (aiohttp: 15 s): none must send a request while this side hangs up.
_KEEP_ALIVE_SECONDS = 75


class HttpServer:
    """Serves an application from a thread with an event loop of its own.

    Args:
        app: What to serve.
        host: Host name or address to listen on.
        port: Port to listen on; 0 takes a free one.
        name: What the thread is called.
        **settings: What `QuietUvicorn` takes besides.

    Raises:
        ValueError: The port is none.
    """

    def __init__(self, app: ASGIApp, host: str, port: int, *, name: str = "agentlightning-http", **settings: Any):
        if not 0 <= port <= 65535:
            raise ValueError(f"{port} is no port: 0 to 65535")
        self.host = host
        self.port = port
        self._app = app
        self._name = name
        self._settings = settings
        self._running: tuple[QuietUvicorn, threading.Thread] | None = None

    @property
    def url(self) -> str:
        """Where clients find it; with port 0 known once started."""
        return url_of(self.host, self.port)

    async def start(self) -> None:
        """Listens; returns when requests are answered.

        Raises:
            OSError: The address cannot be listened on.
            RuntimeError: It is running already, or the application did not start.
        """
        if self._running is not None:
            raise RuntimeError(f"the server is running already, at {self.url}")
        listener = listen(self.host, self.port)
        self.port = listener.getsockname()[1]
        server = QuietUvicorn(self._app, **self._settings)
        thread = threading.Thread(target=server.run_on, args=(listener,), name=self._name, daemon=True)
        self._running = server, thread
        thread.start()
        try:
            await asyncio.shield(asyncio.wrap_future(server.ready))
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Finishes the requests at work, for up to 5 s, and listens no more. Does nothing when it is not running."""
        running, self._running = self._running, None
        if running is not None:
            server, thread = running
            server.should_exit = True
            await asyncio.to_thread(thread.join)

    async def wait(self) -> None:
        """Returns when it has stopped; at once when it is not running."""
        if self._running is not None:
            await asyncio.shield(asyncio.wrap_future(self._running[0].ended))


class QuietUvicorn(uvicorn.Server):
    """Tells when it is ready and when it has ended, and leaves the signals and logs of the process alone.

    Args:
        app: What to serve.
        before_shutdown: Is called, on the loop that serves, when the server is about to stop and waits for requests.
        **settings: Settings of uvicorn that differ from its defaults or from those of this class.
    """

    def __init__(self, app: ASGIApp, *, before_shutdown: Callable[[], None] | None = None, **settings: Any) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                interface="asgi3",
                log_config=None,
                access_log=False,
                ws="none",
                server_header=False,
                timeout_graceful_shutdown=_GRACE_SECONDS,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                **{"lifespan": "off", **settings},
            )
        )
        self._before_shutdown = before_shutdown
        self.ready: Future[None] = Future()
        self.ended: Future[None] = Future()

    def run_on(self, listener: socket.socket) -> None:
        """Serves on a listening socket, which is closed afterwards, until `should_exit` is set."""
        try:
            with listener:
                self.run(sockets=[listener])
            if not self.ready.done():
                raise RuntimeError("the application did not start; the log says more")
        except BaseException as error:
            if self.ready.done():
                raise
            self.ready.set_exception(error)
        finally:
            self.ended.set_result(None)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if not self.should_exit:
            self.ready.set_result(None)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._before_shutdown is not None:
            self._before_shutdown()
        await super().shutdown(sockets=sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens.

    Raises:
        OSError: The address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise OSError(f"Cannot listen on {host}:{port}: {error}") from error
    # Connections inherit it. asyncio sets it on sockets only that name their protocol, which these do not, and without
    # it a head and a body that are sent apart are 40 ms apart.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
