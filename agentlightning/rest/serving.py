"""Serving the application over HTTP from a thread of this process."""

from __future__ import annotations

from starlette.types import ASGIApp

from agentlightning.store.server.server import refuse_others
from agentlightning.utils.http_serving import HttpServer


class RestServer(HttpServer):
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
        super().__init__(app, host, port, name="agentlightning-rest")
