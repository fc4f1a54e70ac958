"""A proxy that loses answers: it forwards a request, and cuts the connection before the answer gets through. It cuts
connections in the middle of anything, too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

_HEADERS = 1
_FRAME_HEAD = 9


class LossyProxy:
    """Forwards connections to a server.

    Args:
        target: `host:port` of the server.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.answers_to_lose = 0
        """How many of the next answers are lost."""
        self.lost = 0
        """How many answers have been lost."""

    @property
    def address(self) -> str:
        """Where it listens."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()
        return f"{host}:{port}"

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    def cut(self) -> None:
        """Cut all connections; new ones can be made."""
        for connection in self._connections:
            connection.cancel()

    async def stop(self) -> None:
        """Close all connections."""
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):  # the last of being cut
                far_reader, far_writer = await asyncio.open_connection(*self._target)
                try:
                    await self._forward(reader, writer, far_reader, far_writer)
                finally:
                    far_writer.close()
        finally:
            writer.close()
            self._connections.discard(task)

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
    ) -> None:
        ways = [
            asyncio.ensure_future(self._requests(reader, far_writer)),
            asyncio.ensure_future(self._answers(far_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _requests(self, reader: asyncio.StreamReader, far_writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            far_writer.write(data)
            await far_writer.drain()

    async def _answers(self, far_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward HTTP/2 frames until those of an answer come that is to be lost."""
        while True:
            head = await far_reader.readexactly(_FRAME_HEAD)
            body = await far_reader.readexactly(int.from_bytes(head[:3], "big"))
            if head[3] == _HEADERS and self.answers_to_lose > 0:
                self.answers_to_lose -= 1
                self.lost += 1
                return
            writer.write(head + body)
            await writer.drain()


@asynccontextmanager
async def lossy_proxy(target: str) -> AsyncIterator[LossyProxy]:
    """A proxy that runs."""
    proxy = LossyProxy(target)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
