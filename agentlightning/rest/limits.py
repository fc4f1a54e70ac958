"""The bound on what a request may send."""

from __future__ import annotations

from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentlightning.store.api import MAX_MESSAGE_BYTES

MAX_BODY_BYTES: Final = MAX_MESSAGE_BYTES // 2
"""Most bytes of a request's body. What becomes of it must fit into messages to the store."""

_TOO_LARGE: Final = f"The body is larger than {MAX_BODY_BYTES} bytes."


class BodyLimit:
    """Refuses bodies of more than `MAX_BODY_BYTES` with status 413, before they are in memory."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a request as ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"")
        announces_too_much = announced.isdigit() and int(announced) > MAX_BODY_BYTES
        received = 0

        async def receive_within_limit() -> Message:
            nonlocal received
            if announces_too_much:
                raise HTTPException(413, _TOO_LARGE)
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BODY_BYTES:
                raise HTTPException(413, _TOO_LARGE)
            return message

        await self._app(scope, receive_within_limit, send)
