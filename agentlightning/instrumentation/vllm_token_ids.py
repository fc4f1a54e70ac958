"""Token ids in every answer of a vLLM server, whether the agent asks for them or not.

vLLM takes the class of this module as `--middleware`; `agl vllm` says so. It runs in vLLM's processes, and
needs no more than the standard library.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

_ASKS: Final = "return_token_ids"
_PATHS: Final = ("/v1/chat/completions", "/v1/completions")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class ReturnTokenIds:
    """Asks for token ids in the name of agents that do not: sets `return_token_ids` in requests that leave it out.

    Args:
        app: The ASGI application to stand in front of.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serves a request as ASGI has it."""
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].endswith(_PATHS):
            await self._app(scope, receive, send)
            return
        received: list[Message] = [await receive()]
        while received[-1].get("more_body"):
            received.append(await receive())
        if received[-1]["type"] == "http.request":
            body = _asking(b"".join(message.get("body", b"") for message in received))
            received = [{"type": "http.request", "body": body, "more_body": False}]
            scope = {**scope, "headers": _with_length(scope["headers"], len(body))}
        # Else the client has gone away meanwhile, and the application is to hear what came.
        waiting = iter(received)

        async def receive_changed() -> Message:
            message = next(waiting, None)
            return await receive() if message is None else message

        await self._app(scope, receive_changed, send)


def _asking(body: bytes) -> bytes:
    """Returns the body of a request that asks for token ids; what is no JSON object stays as it is."""
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        return body
    if not isinstance(request, dict) or request.get(_ASKS) is not None:
        return body
    return json.dumps({**request, _ASKS: True}).encode()


def _with_length(headers: list[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    others = [(name, value) for name, value in headers if name.lower() not in (b"content-length", b"transfer-encoding")]
    return [*others, (b"content-length", str(length).encode())]
