"""Sending the workers of a server home."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from agentlightning.store.api import CallContext
from lightning_store import v1

UnaryMethod = Callable[[CallContext, Any], Awaitable[Any]]

_REASON: Final = "The run has ended."


class Dismissal:
    """From the moment on that it begins, every claim and heartbeat is answered with the word to leave.

    That is a matter of the server and not of the store: it reaches workers that come later too, and whoever serves the
    store next knows nothing of it. Belongs to the server's event loop.
    """

    def __init__(self) -> None:
        self._began = False
        self._cancels = False
        self._claiming: set[asyncio.Task[Any]] = set()

    def begin(self, *, cancel: bool) -> None:
        """Send them home: those that wait for work at once, the others when they have finished what they hold.

        Args:
            cancel: Whether they are to stop what they hold.
        """
        self._began = True
        self._cancels = self._cancels or cancel
        for task in self._claiming:
            task.cancel()

    def of_claims(self, call: UnaryMethod) -> UnaryMethod:
        """Return DequeueRollouts as workers see it."""

        async def claim(context: CallContext, request: v1.DequeueRolloutsRequest) -> v1.DequeueRolloutsResponse:
            task = asyncio.current_task()
            assert task is not None
            self._claiming.add(task)
            try:
                if not self._began:
                    response: v1.DequeueRolloutsResponse = await call(context, request)
                    return response
            except asyncio.CancelledError:
                if not self._began or not context.is_present():
                    raise
            finally:
                self._claiming.discard(task)
            return v1.DequeueRolloutsResponse(draining=True)

        return claim

    def of_heartbeats(self, call: UnaryMethod) -> UnaryMethod:
        """Return UpdateWorker as workers see it."""

        async def heartbeat(context: CallContext, request: v1.UpdateWorkerRequest) -> v1.UpdateWorkerResponse:
            response: v1.UpdateWorkerResponse = await call(context, request)
            if self._began:
                response.commands.add(drain=v1.Drain(reason=_REASON))
            for key in request.held_attempts if self._cancels else ():
                response.commands.add(
                    cancel_attempt=v1.CancelAttempt(
                        rollout_id=key.rollout_id, attempt_id=key.attempt_id, reason=_REASON
                    )
                )
            return response

        return heartbeat
