"""The HTTP application."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from agentlightning.rest.connect.routes import serve_contract
from agentlightning.rest.errors import install_error_handlers
from agentlightning.rest.legacy_routes import legacy_routes
from agentlightning.rest.limits import BodyLimit
from agentlightning.rest.otlp_http import otlp_routes
from agentlightning.rest.store_routes import store_routes
from agentlightning.rest.store_routes_0_2 import store_routes_0_2
from agentlightning.store.face import StoreFace

TASK_TIMEOUT_SECONDS: Final = 300.0
"""How long a task is its client's before it is handed out again, unless said otherwise."""

_SHORTEST_TIMEOUT: Final = 1.0
_LONGEST_TIMEOUT: Final = 86_400.0


def create_app(
    store: StoreFace, *, task_timeout_seconds: float = TASK_TIMEOUT_SECONDS, cors_origins: Sequence[str] = ()
) -> FastAPI:
    """Makes the application. It holds nothing of its own: everything is in the store.

    Args:
        store: The store, in this process or a `LightningStoreClient`. It stays the caller's to close.
        task_timeout_seconds: Seconds until a task that was handed out and not reported on is handed out again; at
            most a day. Less than a second counts as one.
        cors_origins: Origins, such as `http://localhost:3000`, whose pages may call it from a browser; `*` is any.

    Raises:
        ValueError: The time is not positive, or longer than a day.
    """
    if not 0 < task_timeout_seconds <= _LONGEST_TIMEOUT:
        raise ValueError(
            f"task_timeout_seconds must be above 0 and at most {_LONGEST_TIMEOUT:.0f}, not {task_timeout_seconds}"
        )
    app = FastAPI(
        title="Agent Lightning",
        description="A store over HTTP: its contract, the REST APIs of older releases, and OTLP.",
    )
    app.add_middleware(BodyLimit)
    install_error_handlers(app)
    app.include_router(legacy_routes(store, lease=max(task_timeout_seconds, _SHORTEST_TIMEOUT)))
    app.include_router(store_routes(store))
    app.include_router(store_routes_0_2(store))
    app.include_router(otlp_routes(store))
    serve_contract(app, store)
    if cors_origins:
        app.add_middleware(CORSMiddleware, allow_origins=cors_origins, allow_methods=["*"], allow_headers=["*"])
    return app
