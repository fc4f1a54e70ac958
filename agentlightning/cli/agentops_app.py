"""What the AgentOps SDK talks to: the sign-in of its API, and OTLP over HTTP for what it records."""

from __future__ import annotations

import re
from typing import Any, Final

from fastapi import APIRouter, FastAPI, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from agentlightning.rest.errors import install_error_handlers
from agentlightning.rest.limits import BodyLimit
from agentlightning.rest.otlp_http import PROTOBUF, otlp_routes
from agentlightning.store.face import StoreFace
from agentlightning.store.server.otlp import ATTEMPT_KEY, ROLLOUT_KEY

_TOKEN: Final = "agl"
_PLACE: Final = re.compile(r"/rollout/([^/]+)/attempt/([^/]+)(/.*)")


def create_collector(store: StoreFace | None, place: tuple[str, str] | None = None) -> ASGIApp:
    """Makes the application. Every API key is good enough for it.

    Args:
        store: Where spans go; None takes them and drops them.
        place: Rollout and attempt of spans that do not say where they belong, in their attributes, in the headers
            `agl-rollout-id` and `agl-attempt-id`, or by a path that begins with `/rollout/ID/attempt/ID`.
    """
    app = FastAPI(title="Agent Lightning", description="Takes what the AgentOps SDK records.")
    app.add_middleware(BodyLimit)
    install_error_handlers(app)
    app.include_router(_agentops_routes())
    app.include_router(_dropping_routes("/v1/traces") if store is None else otlp_routes(store))
    app.include_router(_dropping_routes("/v1/metrics", "/v1/logs"))
    return _Placed(app, place)


def _agentops_routes() -> APIRouter:
    router = APIRouter(tags=["AgentOps"])

    @router.get("/health")
    async def health() -> dict[str, str]:
        """Tells that this answers."""
        return {"status": "ok"}

    @router.post("/v3/auth/token")
    async def sign_in() -> dict[str, str]:
        """Lets everybody in. The plan is one that the SDK makes no remarks about."""
        return {"token": _TOKEN, "project_id": _TOKEN, "project_prem_status": "pro"}

    @router.post("/v4/logs/upload/")
    @router.post("/v4/objects/upload/")
    async def upload() -> dict[str, Any]:
        """Takes what the process printed, and drops it: it says no more than the spans."""
        return {"url": "", "size": 0}

    return router


def _dropping_routes(*paths: str) -> APIRouter:
    """Makes routes that take exports of OpenTelemetry and drop them."""
    router = APIRouter(tags=["OpenTelemetry"])
    for path in paths:

        @router.post(path)
        async def drop() -> Response:
            return Response(b"", media_type=PROTOBUF)

    return router


class _Placed:
    """Tells the application where spans belong, by the headers that it knows."""

    def __init__(self, app: ASGIApp, place: tuple[str, str] | None) -> None:
        self._app = app
        self._place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = self._placed(scope)
        await self._app(scope, receive, send)

    def _placed(self, scope: Scope) -> Scope:
        headers = scope["headers"]
        found = _PLACE.fullmatch(scope["path"])
        if found is not None:
            rollout_id, attempt_id, path = found.groups()
            headers = [pair for pair in headers if pair[0] not in (ROLLOUT_KEY.encode(), ATTEMPT_KEY.encode())]
            return {**scope, "path": path, "headers": [*headers, *_headers(rollout_id, attempt_id)]}
        if self._place is None or any(name == ROLLOUT_KEY.encode() for name, _ in headers):
            return scope
        return {**scope, "headers": [*headers, *_headers(*self._place)]}


def _headers(rollout_id: str, attempt_id: str) -> list[tuple[bytes, bytes]]:
    pairs = ((ROLLOUT_KEY, rollout_id), (ATTEMPT_KEY, attempt_id))
    return [(key.encode(), value.encode("latin-1", "replace")) for key, value in pairs]
