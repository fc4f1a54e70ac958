"""A backend whose every byte a test decides, over real HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Receive, Scope, Send
from typing_extensions import Self

from agentlightning.utils.http_serving import HttpServer

JSON = dict[str, Any]


def sse(document: JSON | str, event: str | None = None) -> bytes:
    """Returns an event of a stream."""
    data = document if isinstance(document, str) else json.dumps(document)
    return f"{f'event: {event}' + chr(10) if event else ''}data: {data}\n\n".encode()


def chat_chunk(
    text: str | None = None, *, finish_reason: str | None = None, token_ids: list[int] | None = None
) -> JSON:
    """Returns a chunk of a chat completion."""
    choice: JSON = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": finish_reason}
    if token_ids is not None:
        choice["token_ids"] = token_ids
    return {"id": "chat-1", "object": "chat.completion.chunk", "created": 1, "model": "scripted", "choices": [choice]}


def chat_answer(text: str, **fields: Any) -> JSON:
    """Returns a whole chat completion."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return {
        "id": "chat-1",
        "object": "chat.completion",
        "created": 1,
        "model": "scripted",
        "choices": [choice],
        **fields,
    }


@dataclass
class Exchange:
    """One request, and the means to answer it."""

    path: str
    headers: dict[str, str]
    body: bytes
    _send: Send
    _receive: Receive
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    """Is set when the client has hung up."""

    @property
    def document(self) -> JSON:
        document: JSON = json.loads(self.body)
        return document

    async def begin(self, status: int = 200, content_type: str = "text/event-stream", **headers: str) -> None:
        raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        raw.append((b"content-type", content_type.encode()))
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def send(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})

    async def answer(self, document: JSON, status: int = 200, **headers: str) -> None:
        """Sends a whole answer."""
        await self.begin(status, "application/json", **headers)
        await self.send(json.dumps(document).encode())
        await self.end()

    async def watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.hung_up.set()


Script = Callable[[Exchange], Awaitable[None]]
"""Answers a request. What returns without `end` cuts the connection."""


class ScriptedBackend:
    """Answers each request by a script on a free port of 127.0.0.1, from a thread of its own.

    async with ScriptedBackend(script) as backend:
        ...
    """

    def __init__(self, script: Script) -> None:
        self.exchanges: list[Exchange] = []
        """The requests so far."""
        self._script = script
        self._server = HttpServer(self._serve, "127.0.0.1", 0)

    @property
    def base_url(self) -> str:
        return f"{self._server.url}/v1"

    async def __aenter__(self) -> Self:
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Listens no more."""
        await self._server.stop()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        exchange = Exchange(scope["path"], headers, body, send, receive)
        self.exchanges.append(exchange)
        watching = asyncio.create_task(exchange.watch())
        try:
            await self._script(exchange)
        finally:
            watching.cancel()
