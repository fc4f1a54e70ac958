"""How a runner gets its work."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from agentlightning.codec.errors import CodecError
from agentlightning.runner.resources import ResourcesCache
from agentlightning.store.errors import Aborted, DeadlineExceeded, Internal, NotFound, ResourceExhausted, Unavailable
from agentlightning.types import AttemptedRollout

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

logger = logging.getLogger(__name__)

EVENT_POLL_SECONDS: Final = 0.1
"""How often a waiting runner looks whether it is to stop."""
STORE_PATIENCE_SECONDS: Final = 300.0
"""How long a runner goes on asking a store that does not answer."""
RELEASE_SECONDS: Final = 5.0
"""How long a runner that was cancelled tries to hand back what it had just claimed."""
# What the store's contract allows.
_LONGEST_WAIT = 60.0
_SHORTEST_PAUSE = 1.0
_LONGEST_PAUSE = 15.0
_TRANSIENT = (Unavailable, DeadlineExceeded, ResourceExhausted, Aborted, Internal)


def is_missing_experiment(error: Exception) -> bool:
    """Returns whether a call failed because nobody has written to its experiment yet."""
    return isinstance(error, NotFound) and error.reason == "EXPERIMENT_NOT_FOUND"


class Claims:
    """Claims rollouts from a store for one worker, by long poll.

    A store that cannot be reached is asked again for up to `STORE_PATIENCE_SECONDS`, an experiment that does not exist
    for as long as it takes: the algorithm may start after its runners.
    """

    def __init__(
        self,
        store: LightningStore,
        worker_id: str,
        *,
        poll_interval: float,
        lease: float | None,
        resources: ResourcesCache,
        on_draining: Callable[[], None],
        stopping: Callable[[], bool],
    ) -> None:
        """Prepares to claim.

        Args:
            store: Whom to ask.
            worker_id: Who claims.
            poll_interval: Seconds that one request waits at the store.
            lease: Seconds that a claim is leased for; None for ever.
            resources: Takes the resources that come with claims.
            on_draining: Called when the store says that the worker is to leave.
            stopping: Says whether no more work is wanted. What was claimed by then is handed back.
        """
        self._store = store
        self._worker_id = worker_id
        self._poll_interval = min(poll_interval, _LONGEST_WAIT)
        self._lease = lease
        self._resources = resources
        self._on_draining = on_draining
        self._stopping = stopping
        self._told_of_experiment = False

    async def take(self, limit: int) -> list[AttemptedRollout]:
        """Waits for work for up to `poll_interval`, and no longer than until the worker is to stop.

        Args:
            limit: The most rollouts to claim.

        Raises:
            StoreError: The store refused, or could not be reached for `STORE_PATIENCE_SECONDS`.
        """
        asked = time.monotonic()
        claiming = asyncio.create_task(self._claim_patiently(limit))
        try:
            while not (claiming.done() or self._stopping()):
                await asyncio.wait({claiming}, timeout=EVENT_POLL_SECONDS)
        except asyncio.CancelledError:
            await asyncio.wait({asyncio.create_task(self._hand_back(claiming))}, timeout=RELEASE_SECONDS)
            raise
        if self._stopping():
            await self._hand_back(claiming)
            return []
        if not claiming.result():
            # A store that does not wait must not be asked without pause.
            await asyncio.sleep(min(0.5, max(0.0, asked + self._poll_interval - time.monotonic())))
        return claiming.result()

    async def _hand_back(self, claiming: asyncio.Task[list[AttemptedRollout]]) -> None:
        claiming.cancel()
        await asyncio.wait({claiming})
        if claiming.cancelled():
            return
        try:
            if claimed := claiming.result():
                await self._store.release_attempts([(item.rollout_id, item.attempt.attempt_id) for item in claimed])
        except Exception as error:  # noqa: BLE001 - it leaves anyway, and leases run out
            logger.warning("%s could not hand back what it had claimed: %s", self._worker_id, error)

    async def _claim_patiently(self, limit: int) -> list[AttemptedRollout]:
        deadline = time.monotonic() + STORE_PATIENCE_SECONDS
        pause = _SHORTEST_PAUSE
        while True:
            try:
                claimed = await self._store.claim_rollouts(
                    limit=limit,
                    worker_id=self._worker_id,
                    wait=self._poll_interval,
                    lease=self._lease,
                    known_resources=self._resources.known(),
                )
            except _TRANSIENT as error:
                if time.monotonic() + pause > deadline:
                    raise
                logger.warning("%s cannot reach the store, trying again in %.0f s: %s", self._worker_id, pause, error)
                await _sleep_about(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            except NotFound as error:
                if not is_missing_experiment(error):
                    raise
                self._tell_of_experiment(error)
                await _sleep_about(_SHORTEST_PAUSE)
                deadline = time.monotonic() + STORE_PATIENCE_SECONDS
                continue
            except CodecError as error:  # the store has been told; the next rollout may be one that can be read
                logger.error("%s got a rollout that it cannot read: %s", self._worker_id, error)
                continue
            if claimed.draining:
                self._on_draining()
            self._resources.take(claimed.resources)
            return claimed.rollouts

    def _tell_of_experiment(self, error: NotFound) -> None:
        if not self._told_of_experiment:
            self._told_of_experiment = True
            logger.warning("%s waits for an algorithm to begin: %s", self._worker_id, error)


async def _sleep_about(seconds: float) -> None:
    # Not the same for all, or many runners would come back at the same moment.
    await asyncio.sleep(seconds * random.uniform(0.8, 1.2))
