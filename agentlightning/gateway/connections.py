"""Connections to backends, for hundreds of calls at once."""

from __future__ import annotations

import ssl
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Final

import httpcore
import httpx

_KEEPALIVE_SECONDS: Final = 4.0
"""Servers, uvicorn and so vLLM among them, hang up after 5 s of silence, and a request would meet the end."""
_MOST_IDLE: Final = 256


class Connections(httpx.AsyncBaseTransport):
    """Keeps the connections of each server that are idle on a stack, the one that was used last on top.

    httpx's own pool looks at every connection at each request and at each end of one, and counts the idle ones for each
    of them, which costs more than all else in a gateway from some hundred concurrent calls on.
    """

    def __init__(self) -> None:
        self._idle: defaultdict[str, list[httpcore.AsyncHTTPConnection]] = defaultdict(list)

    @cached_property
    def _ssl_context(self) -> ssl.SSLContext:
        # Made when it is needed: reading the certificates takes a good part of a second.
        return httpx.create_ssl_context()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends a request; the body of the response is read from its stream."""
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        sent = httpcore.Request(
            request.method, url, headers=request.headers.raw, content=request.stream, extensions=request.extensions
        )
        with _as_httpx():
            connection = await self._connection(url.origin)
            try:
                response = await connection.handle_async_request(sent)
            except BaseException:
                await connection.aclose()
                raise
        return httpx.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_Body(response, connection, self._idle[str(url.origin)]),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        """Closes what is idle."""
        for connections in self._idle.values():
            while connections:
                await connections.pop().aclose()

    async def _connection(self, origin: httpcore.Origin) -> httpcore.AsyncHTTPConnection:
        idle = self._idle[str(origin)]
        while idle:
            connection = idle.pop()
            if connection.is_available() and not connection.has_expired():
                return connection
            await connection.aclose()
        return httpcore.AsyncHTTPConnection(
            origin,
            ssl_context=self._ssl_context if origin.scheme == b"https" else None,
            keepalive_expiry=_KEEPALIVE_SECONDS,
        )


class _Body(httpx.AsyncByteStream):
    """The body of a response; gives the connection back when it is closed."""

    def __init__(
        self,
        response: httpcore.Response,
        connection: httpcore.AsyncHTTPConnection,
        idle: list[httpcore.AsyncHTTPConnection],
    ) -> None:
        self._response = response
        self._connection = connection
        self._idle = idle

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx():
            async for chunk in self._response.aiter_stream():
                yield chunk

    async def aclose(self) -> None:
        with _as_httpx():
            await self._response.aclose()
        # One whose response was not read to its end is closed by now.
        if self._connection.is_available() and len(self._idle) < _MOST_IDLE:
            self._idle.append(self._connection)
        else:
            await self._connection.aclose()


@contextmanager
def _as_httpx() -> Iterator[None]:
    """Raises errors of httpcore as those of httpx, which have the same names."""
    try:
        yield
    except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
        raise getattr(httpx, type(error).__name__)(str(error)) from error
