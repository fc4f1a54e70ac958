"""What the calls of one gateway process share: backends, connections, and the way to the store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any
from urllib.request import getproxies

import httpx

from agentlightning.gateway.batching import Batched
from agentlightning.gateway.connections import Connections
from agentlightning.gateway.errors import GatewayError
from agentlightning.gateway.routing import Router
from agentlightning.gateway.settings import GatewaySettings, GatewayState
from agentlightning.store.base import LightningStore
from agentlightning.store.errors import FailedPrecondition, InvalidArgument, NotFound, StoreError
from agentlightning.types import Span

logger = logging.getLogger(__name__)


class Gateway:
    """One gateway process. Everything but the constructor belongs to the event loop that serves.

    Args:
        settings: The settings.
        state: How it stands.
        store: Where spans go.
    """

    def __init__(self, settings: GatewaySettings, state: GatewayState, store: LightningStore) -> None:
        self.settings = settings
        self.lost_spans = 0
        """How many calls were answered and not recorded, since the process began."""
        self._initial = state
        self._store = store
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reserve = Batched(self._reserve_many)
        self._commit = Batched(self._commit_many)

    async def open(self) -> None:
        """Takes the running loop for its own."""
        self._loop = asyncio.get_running_loop()
        self.router = Router(self._initial.backends)
        for model in self._initial.paused:
            self.router.pause(model)
        for model, version in self._initial.versions:
            self.router.set_version(model, version)
        # httpx asks the environment for proxies only where its own transport works.
        self.client = httpx.AsyncClient(transport=None if getproxies() else Connections())

    def end_waits(self) -> None:
        """Refuses the calls that are held, because the gateway is about to stop."""
        self.router.refuse_held()

    async def close(self) -> None:
        """Closes the connections to backends."""
        await self.client.aclose()

    def submit(self, command: str, *arguments: Any) -> Future[Any]:
        """Has the gateway's loop carry a command out, from any other thread.

        Args:
            command: The name of a method of `Router`.
            *arguments: Its arguments.

        Returns:
            Its result.
        """
        assert self._loop is not None  # commands come after the start
        return asyncio.run_coroutine_threadsafe(self._obey(command, *arguments), self._loop)

    async def _obey(self, command: str, *arguments: Any) -> Any:
        outcome = getattr(self.router, command)(*arguments)
        return await outcome if asyncio.iscoroutine(outcome) else outcome

    async def reserve(self, attempt: tuple[str, str]) -> int | None:
        """Returns the sequence id for a call of an attempt; None where calls go on without a record.

        Raises:
            GatewayError: There is no such attempt, or the call must not go on without a record.
        """
        try:
            return await self._reserve(attempt)
        except (StoreError, ValueError, OSError) as error:
            self._forgive(error, attempt)
            return None

    async def commit(self, span: Span) -> None:
        """Returns when a span is stored.

        Raises:
            GatewayError: It cannot be, and calls must not go on without a record.
        """
        try:
            await self._commit(span)
        except (StoreError, ValueError, OSError) as error:
            self._forgive(error, (span.rollout_id, span.attempt_id))

    def _forgive(self, error: Exception, attempt: tuple[str, str]) -> None:
        cause = error if isinstance(error, StoreError) else error.__cause__
        where = f"attempt {attempt[1]} of rollout {attempt[0]}"
        if isinstance(cause, (NotFound, InvalidArgument, FailedPrecondition)):
            status = 404 if isinstance(cause, NotFound) else 409
            raise GatewayError(status, f"This call cannot be recorded for {where}: {cause.message}", "unknown_attempt")
        if self.settings.on_store_failure == "fail":
            raise GatewayError(
                503, f"This call cannot be recorded for {where}: {error}", "store_unavailable", retry_after=1.0
            )
        self.lost_spans += 1
        logger.warning("a model call of %s is answered without a record: %s", where, error)

    async def _reserve_many(self, attempts: Sequence[tuple[str, str]]) -> Sequence[int]:
        return await self._store.get_many_span_sequence_ids(attempts)

    async def _commit_many(self, spans: Sequence[Span]) -> Sequence[None]:
        await self._store.add_many_spans(spans)
        return [None] * len(spans)
