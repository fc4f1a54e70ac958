"""Serving the application over HTTP from a thread of this process."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Final

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from agentlightning.rest import url_of
from agentlightning.store.server.server import refuse_others
from agentlightning.store.server.servicers import LongCalls

_GRACE_SECONDS = 5
# Longer than clients keep an idle connection (aiohttp: 15 s): none must send a request while this side hangs up.
_KEEP_ALIVE_SECONDS = 75
_LONG_CALLS: Final = "agentlightning.long_calls"


def long_calls_of(scope: Scope) -> LongCalls | None:
    """Returns where a request's work counts itself in that is to end when the server stops; None if it is not ours."""
    long_calls: LongCalls | None = scope.get(_LONG_CALLS)
    return long_calls


class RestServer:
    """Serves an application from a thread with an event loop of its own.

    Args:
        app: What to serve.
        host: Host name or address to listen on.
        port: Port to listen on; 0 takes a free one.
        insecure: True allows a host that others can reach, though nothing is encrypted and nobody is asked who he is.

    Raises:
        ValueError: The host can be reached by others and `insecure` is not set, or the port is none.
    """

    def __init__(self, app: ASGIApp, host: str = "127.0.0.1", port: int = 8000, *, insecure: bool = False) -> None:
        refuse_others(host, insecure=insecure)
        if not 0 <= port <= 65535:
            raise ValueError(f"{port} is no port: 0 to 65535")
        self.host = host
        self.port = port
        self._app = app
        self._running: tuple[_Uvicorn, threading.Thread] | None = None

    @property
    def url(self) -> str:
        """Where clients find it; with port 0 known once started."""
        return url_of(self.host, self.port)

    async def start(self) -> None:
        """Listens; returns when requests are answered.

        Raises:
            OSError: The address cannot be listened on.
            RuntimeError: It is running already.
        """
        if self._running is not None:
            raise RuntimeError(f"the server is running already, at {self.url}")
        listener = self._listen()
        server = _Uvicorn(self._app)
        thread = threading.Thread(target=server.run_on, args=(listener,), name="agentlightning-rest", daemon=True)
        self._running = server, thread
        thread.start()
        try:
            await asyncio.shield(asyncio.wrap_future(server.ready))
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Ends what only waits, finishes the other requests, for up to 5 s, and listens no more.

        Does nothing when it is not running.
        """
        running, self._running = self._running, None
        if running is not None:
            server, thread = running
            server.should_exit = True
            await asyncio.to_thread(thread.join)

    async def wait(self) -> None:
        """Returns when it has stopped; at once when it is not running."""
        if self._running is not None:
            await asyncio.shield(asyncio.wrap_future(self._running[0].ended))

    def _listen(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            listener = socket.create_server((self.host, self.port), family=family, backlog=2048)
        except OSError as error:
            raise OSError(f"Cannot listen on {self.host}:{self.port}: {error}") from error
        # Connections inherit it. Without it an answer waits 40 ms for the client's acknowledgement of its header.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port = listener.getsockname()[1]
        return listener


class _Uvicorn(uvicorn.Server):
    """Tells when it is ready and when it has ended, and leaves the signals of the process alone."""

    def __init__(self, app: ASGIApp) -> None:
        self._long_calls = LongCalls()

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, _LONG_CALLS: self._long_calls}, receive, send)

        super().__init__(
            uvicorn.Config(
                serve,
                interface="asgi3",
                log_config=None,
                access_log=False,
                ws="none",
                lifespan="off",
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_GRACE_SECONDS,
            )
        )
        self.ready: Future[None] = Future()
        self.ended: Future[None] = Future()

    def run_on(self, listener: socket.socket) -> None:
        try:
            with listener:
                self.run(sockets=[listener])
        except BaseException as error:
            if self.ready.done():
                raise
            self.ready.set_exception(error)
        finally:
            self.ended.set_result(None)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.ready.set_result(None)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._long_calls.end()
        await super().shutdown(sockets=sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
