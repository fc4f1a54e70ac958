"""The HTTP application of the gateway."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from agentlightning.gateway.apis import APIS
from agentlightning.gateway.apis.base import Protocol
from agentlightning.gateway.call import ModelCall, send_error
from agentlightning.gateway.core import Gateway
from agentlightning.gateway.errors import GatewayError
from agentlightning.gateway.relay import parsed
from agentlightning.gateway.settings import MAX_BODY_BYTES
from agentlightning.utils.attempt_keys import opens

# Clients add a version of their own to base URLs that have one, or leave it out.
_TARGET: Final = re.compile(r"(?:/v1)*(?:/rollout/([^/]+)/attempt/([^/]+))?(?:/v1)*(/.*)")


def create_app(gateway: Gateway) -> Starlette:
    """Makes the application.

    Args:
        gateway: What serves it; opened and closed with the application.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await gateway.open()
        try:
            yield
        finally:
            await gateway.close()

    async def health(_: Request) -> JSONResponse:
        router = gateway.router
        standing = {"models": router.models, "in_flight": router.in_flight, "lost_spans": gateway.lost_spans}
        return JSONResponse({"status": "ok", **standing})

    return Starlette(
        routes=[Route("/health", health), Mount("", _ModelCalls(gateway))],
        middleware=[Middleware(middleware) for middleware in gateway.settings.middlewares],
        lifespan=lifespan,
    )


class _Gone(Exception):
    """The agent has hung up."""


class _ModelCalls:
    """Serves model calls, with and without the prefix that names an attempt."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        target = _TARGET.fullmatch((scope.get("raw_path") or scope["path"].encode()).decode("latin-1").split("?")[0])
        path = target[3] if target else scope["path"]
        attempt = (unquote(target[1]), unquote(target[2])) if target and target[1] else None
        protocol: Protocol = "anthropic" if "anthropic-version" in headers or path.startswith("/messages") else "openai"
        try:
            self._admit(headers, attempt)
            if path == "/models" and scope["method"] == "GET":
                await JSONResponse(self._models())(scope, receive, send)
                return
            call = await self._call(scope["method"], path, headers, attempt, receive, send)
        except GatewayError as error:
            await send_error(send, error, protocol)
        except _Gone:
            return
        else:
            await _run_while_heard(call, receive)

    def _admit(self, headers: Mapping[str, str], attempt: tuple[str, str] | None) -> None:
        settings = self._gateway.settings
        if not settings.require_keys:
            return
        bearer = headers.get("authorization", "")
        shown = headers.get("x-api-key") or headers.get("api-key") or bearer.removeprefix("Bearer ")
        if not opens(shown, settings.run_key, attempt):
            raise GatewayError(
                401, "The key is not that of this attempt: use the api_key of the LLM resource.", "invalid_api_key"
            )

    def _models(self) -> dict[str, Any]:
        models = [
            {"id": name, "object": "model", "created": 0, "owned_by": "agentlightning"}
            for name in self._gateway.router.models
        ]
        return {"object": "list", "data": models}

    async def _call(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        attempt: tuple[str, str] | None,
        receive: Receive,
        send: Send,
    ) -> ModelCall:
        api = APIS.get(path)
        if api is None:
            known = ", ".join(f"/v1{each}" for each in APIS)
            raise GatewayError(404, f"There is no {path} here; there are {known} and /v1/models.", "unknown_path")
        if method != "POST":
            raise GatewayError(405, f"{path} takes POST, not {method}.", "method_not_allowed")
        body = await _read_body(headers, receive)
        request = parsed(body)
        if request is None:
            raise GatewayError(400, "The body is no JSON object.", "invalid_json")
        if not isinstance(request.get("model"), str):
            raise GatewayError(400, "The body names no `model`.", "missing_model")
        return ModelCall(self._gateway, api, attempt, body, request, headers, send)


async def _run_while_heard(call: ModelCall, receive: Receive) -> None:
    """Runs a call to its end; when the agent hangs up before, calls it off."""
    work = asyncio.create_task(call.run())
    hang_up = asyncio.create_task(_hung_up(receive))
    try:
        await asyncio.wait({work, hang_up}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        hang_up.cancel()
        if not work.done():
            work.cancel()
            await asyncio.wait({work})
    if not work.cancelled():
        work.result()


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read_body(headers: Mapping[str, str], receive: Receive) -> bytes:
    announced = headers.get("content-length", "")
    parts: list[bytes] = []
    size = int(announced) if announced.isdigit() else 0
    received = 0
    while True:
        if max(size, received) > MAX_BODY_BYTES:
            raise GatewayError(413, f"The body is larger than {MAX_BODY_BYTES} bytes.", "body_too_large")
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        parts.append(message.get("body", b""))
        received += len(parts[-1])
        if not message.get("more_body"):
            return b"".join(parts)
