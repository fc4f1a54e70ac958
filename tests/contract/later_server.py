"""A store server of a later release: run with the package of the later contract, it says what today's clients do not
know yet.

Run as `later_server.py`, followed by the options of the server.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from typing import Any

from agentlightning.store.engine.engine import Engine
from agentlightning.store.opening import open_engine
from agentlightning.store.storage.base import Durability
from agentlightning.store_grpc import __main__ as command
from lightning_store import v1


class LaterEngine:
    """An engine, and the additions of the later contract."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.get_quota = engine.get_server_info

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def get_rollout(self, context: Any, request: Any) -> Any:
        response = await self._engine.get_rollout(context, request)
        response.rollout.note = "later"  # type: ignore[attr-defined]
        return response

    async def update_worker(self, context: Any, request: Any) -> Any:
        response = await self._engine.update_worker(context, request)
        response.commands.add(rest="later")  # type: ignore[call-arg]
        return response

    async def wait_for_rollouts(self, context: Any, request: Any) -> AsyncGenerator[Any, None]:
        yield v1.WaitForRolloutsResponse(progress="later")  # type: ignore[call-arg]
        async for message in self._engine.wait_for_rollouts(context, request):
            yield message


def open_later(url: str, durability: Durability, **options: Any) -> Any:
    """Open a store of the later release."""
    return LaterEngine(open_engine(url, durability, **options))


if __name__ == "__main__":
    command.open_engine = open_later
    sys.exit(command.main())
