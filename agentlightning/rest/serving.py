"""Serving the application over HTTP from a thread of this process."""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from agentlightning.store.server.server import refuse_others
from agentlightning.store.server.servicers import LongCalls
from agentlightning.utils.http_serving import HttpServer

_LONG_CALLS: Final = "agentlightning.long_calls"


def long_calls_of(scope: Scope) -> LongCalls | None:
    """Returns where a request's work counts itself in that is to end when the server stops; None if it is not ours."""
    long_calls: LongCalls | None = scope.get(_LONG_CALLS)
    return long_calls


class RestServer(HttpServer):
    """Serves an application from a thread with an event loop of its own; what only waits ends when it is stopped.

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
        self._long_calls = LongCalls()

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, _LONG_CALLS: self._long_calls}, receive, send)

        super().__init__(serve, host, port, name="agentlightning-rest", before_shutdown=lambda: self._long_calls.end())

    async def start(self) -> None:
        self._long_calls = LongCalls()
        await super().start()
