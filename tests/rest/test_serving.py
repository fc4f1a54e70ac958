"""Connections, as clients of older releases keep and reuse them."""

from __future__ import annotations

import socket
from typing import Any

from agentlightning.rest.serving import RestServer
from agentlightning.utils.http_serving import listen

AIOHTTP_KEEPS = 15.0


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Serves nothing."""


def test_an_answer_does_not_wait_for_the_acknowledgement_of_its_header() -> None:
    # How an answer is sent shows in time only.
    with (
        listen("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as connection,
    ):
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_a_connection_is_kept_longer_than_clients_keep_it() -> None:
    server = RestServer(app, port=0)
    await server.start()
    assert server._running is not None  # noqa: SLF001  a test would have to wait for what this says
    assert server._running[0].config.timeout_keep_alive > AIOHTTP_KEEPS  # noqa: SLF001
    await server.stop()
