"""The legacy REST API over HTTP, as any program calls it."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send
from stores import OpenStore

from agentlightning.rest.app import create_app
from agentlightning.rest.serving import RestServer
from agentlightning.store.base import LightningStore
from agentlightning.types import Span


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        """The body, which must be JSON."""
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)


def request(url: str, body: bytes | None = None, content_type: str = "application/json", **headers: str) -> Answer:
    """Send a request as any program could, and return the answer whatever its status."""
    if body is not None:
        headers["Content-Type"] = content_type
    sent = urllib.request.Request(url, body, headers)
    try:
        with urllib.request.urlopen(sent, timeout=20) as answer:
            return Answer(answer.status, answer.read(), dict(answer.headers))
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.read(), dict(error.headers))


def span(rollout: dict[str, Any], number: int, **changed: Any) -> dict[str, Any]:
    """Returns a span of a rollout's attempt, as clients post it."""
    made = Span.from_attributes(
        attributes={"number": number},
        rollout_id=rollout["rollout_id"],
        attempt_id=rollout["attempt"]["attempt_id"],
        sequence_id=number,
        name=f"step {number}",
        trace_id="ab" * 16,
        span_id=f"{number:016x}",
    )
    return {**made.model_dump(mode="json"), **changed}


@dataclass
class Rest:
    """The REST API in front of an open store."""

    url: str
    opened: OpenStore
    store: LightningStore

    async def get(self, path: str) -> Answer:
        """Send a GET."""
        return await asyncio.to_thread(request, self.url + path)

    async def post(self, body: Any) -> Answer:
        """Send a report."""
        return await asyncio.to_thread(request, self.url + "/rollout", json.dumps(body).encode())

    async def call(self, path: str, body: Any) -> Answer:
        """Send a POST with a JSON body."""
        return await asyncio.to_thread(request, self.url + path, json.dumps(body).encode())

    async def claim(self) -> dict[str, Any]:
        """Get a task, which there must be."""
        answer = (await self.get("/task")).json
        assert answer["is_available"] is True
        return answer["task"]


class Switchboard:
    """A server that many tests use, each for an application of its own: to start and stop one takes 0.2 s."""

    def __init__(self) -> None:
        self.app: ASGIApp | None = None
        self.server = RestServer(self._serve, port=0)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.app is not None
        await self.app(scope, receive, send)

    @contextmanager
    def serving(self, store: LightningStore) -> Iterator[str]:
        """Serves a store, and yields the URL."""
        before, self.app = self.app, create_app(store)
        try:
            yield self.server.url
        finally:
            self.app = before
