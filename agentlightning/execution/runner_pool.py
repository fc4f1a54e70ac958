"""The runners of a run: started, started again when they crash, and sent home."""

from __future__ import annotations

import asyncio
import atexit
import logging
from collections.abc import Callable

from agentlightning.execution.side import Order, Side, within

logger = logging.getLogger(__name__)


class RunnerPool:
    """Keeps runners running. One that crashes is started again, after a pause of 1 s, then 2 s, 4 s and so on."""

    def __init__(self, n_runners: int, max_restarts: int) -> None:
        """Prepares the pool.

        Args:
            n_runners: How many runners; 0 makes a pool that is left from the beginning.
            max_restarts: How often each is started again, in all.
        """
        self._n_runners = n_runners
        self._max_restarts = max_restarts
        self._runners: dict[int, Side] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._leaving: asyncio.Event | None = None

    def start(self, launch: Callable[[int], Side]) -> None:
        """Starts the runners. To be called on the event loop that will use the pool.

        Args:
            launch: Starts a runner, given its number from 0.
        """
        self._leaving = asyncio.Event()
        atexit.register(self.kill)
        for worker_id in range(self._n_runners):
            self._runners[worker_id] = launch(worker_id)
            self._keepers.append(asyncio.create_task(self._keep(worker_id, launch, self._leaving)))

    async def wait_until_left(self) -> None:
        """Returns when no runner is left, and none will be started again."""
        if self._keepers:
            await asyncio.wait(self._keepers)
        for runner in self._runners.values():
            # Where Ctrl+C cancels all tasks, it ends the keepers before their runners.
            await runner.wait()
        for keeper in self._keepers:
            if not keeper.cancelled():
                keeper.result()

    def failures(self) -> list[Side]:
        """Returns the runners that ended by themselves and badly, each as it was at last."""
        return [runner for runner in self._runners.values() if runner.failed]

    def describe_failures(self) -> str:
        """Returns how those ended, in words."""
        restarts = f", the last of {self._max_restarts} restarts" if self._max_restarts else ""
        return "; ".join(runner.describe_end() for runner in self.failures()) + restarts

    def order(self, order: Order) -> None:
        """Tells all that are left to finish what they do and leave, or to abort it. None is started again."""
        if self._leaving is not None:
            self._leaving.set()
        for runner in self._runners.values():
            runner.order(order)

    def kill(self) -> None:
        """Ends by force those that are left. The event loop need not run any more."""
        for runner in self._runners.values():
            if not runner.over.is_set():
                runner.kill()
        atexit.unregister(self.kill)

    async def _keep(self, worker_id: int, launch: Callable[[int], Side], leaving: asyncio.Event) -> None:
        await self._runners[worker_id].wait()
        for restart in range(self._max_restarts):
            runner = self._runners[worker_id]
            if not runner.failed or leaving.is_set():
                return
            pause = 2.0**restart
            logger.error(
                "%s; it is started again in %.0f s (%d of %d restarts)",
                runner.describe_end(),
                pause,
                restart + 1,
                self._max_restarts,
            )
            if await within(leaving.wait(), pause):
                return
            self._runners[worker_id] = launch(worker_id)
            await self._runners[worker_id].wait()
        if self._runners[worker_id].failed:
            logger.error("%s; it is not started again", self._runners[worker_id].describe_end())
