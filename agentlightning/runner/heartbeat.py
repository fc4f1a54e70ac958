"""The signs of life of a runner, and what the store tells it in return."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from agentlightning.runner.claims import is_missing_experiment
from agentlightning.tracer.recording import nowhere
from agentlightning.types import CommandedWorker, WorkerCommand
from agentlightning.utils.system_snapshot import system_snapshot
from agentlightning.utils.threads import background_loop, run_in_thread

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

logger = logging.getLogger(__name__)

AttemptKey = tuple[str, str]

BEGUN_AFTER_SECONDS: Final = 0.2
"""Age at which an attempt is reported as running. Without that, an agent that kills its process before its first span
would be handed out for ever: a lease that runs out on an attempt that was never begun costs none. Short rollouts are
spared the call."""
_TICK_SECONDS: Final = 0.2


class HeldAttempts:
    """The attempts that a runner holds, for its own loop and its heartbeat's."""

    def __init__(self) -> None:
        self._stops: dict[AttemptKey, Callable[[str], None]] = {}
        self._unreported: dict[AttemptKey, float] = {}
        self._lock = threading.Lock()

    def add(self, key: AttemptKey, stop: Callable[[str], None]) -> None:
        """Notes an attempt, and whom to call, from any thread, with the reason if it is to be stopped."""
        with self._lock:
            self._stops[key] = stop
            self._unreported[key] = time.monotonic()

    def mark_ending(self, key: AttemptKey) -> None:
        """Notes that the end of an attempt is about to be reported, and its beginning need not be any more."""
        with self._lock:
            self._unreported.pop(key, None)

    def discard(self, key: AttemptKey) -> None:
        """Forgets an attempt."""
        with self._lock:
            self._stops.pop(key, None)
            self._unreported.pop(key, None)

    def keys(self) -> list[AttemptKey]:
        """Returns the attempts."""
        with self._lock:
            return list(self._stops)

    def next_begun(self) -> AttemptKey | None:
        """Returns an attempt that is to be reported as running, each once; None if there is none."""
        before = time.monotonic() - BEGUN_AFTER_SECONDS
        with self._lock:
            key = next((key for key, since in self._unreported.items() if since <= before), None)
            if key is not None:
                del self._unreported[key]
            return key

    def stop(self, key: AttemptKey, reason: str) -> None:
        """Has an attempt stopped, if it is held."""
        with self._lock:
            stop = self._stops.get(key)
        if stop is not None:
            stop(reason)


class Heartbeat:
    """Tells the store, again and again, that a worker lives, which attempts it holds, and which of them have begun."""

    def __init__(
        self,
        store: LightningStore,
        worker_id: str,
        *,
        interval: float,
        jitter: float,
        held: HeldAttempts,
        on_command: Callable[[WorkerCommand], None],
        include_gpu: bool = False,
        own_thread: bool = True,
    ) -> None:
        """Prepares the heartbeat; `beating` starts it.

        Args:
            store: Whom to tell.
            worker_id: Who lives.
            interval: Seconds between two heartbeats.
            jitter: Most seconds by which an interval is longer or shorter, so that workers do not fall into step.
            held: What the worker holds.
            on_command: Takes what the store answers; called from any thread, repeatedly for the same command.
            include_gpu: Whether to report the GPUs too.
            own_thread: Whether to beat beside the event loop, which agents may block. It needs a thread-safe store.
        """
        self._store = store
        self._worker_id = worker_id
        self._interval = interval
        self._jitter = min(jitter, interval / 2)
        self._held = held
        self._on_command = on_command
        self._include_gpu = include_gpu
        self._own_thread = own_thread and store.capabilities.get("thread_safe", False)

    @asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """Beats during the block, at once and then at each interval."""
        loop = background_loop() if self._own_thread else asyncio.get_running_loop()
        beating = asyncio.run_coroutine_threadsafe(self._beat_for_ever(), loop)
        try:
            yield
        finally:
            beating.cancel()

    async def _beat_for_ever(self) -> None:
        with nowhere():
            while True:
                await self._beat()
                until = time.monotonic() + self._interval + random.uniform(-self._jitter, self._jitter)
                while (left := until - time.monotonic()) > 0:
                    await asyncio.sleep(min(left, _TICK_SECONDS))
                    # One by one: others may end meanwhile.
                    while (key := self._held.next_begun()) is not None:
                        await self._report_begun(key)

    async def _beat(self) -> None:
        try:
            # Asking the GPUs takes a subprocess.
            stats = await run_in_thread(self._stats) if self._include_gpu else self._stats()
            worker = await self._store.update_worker(self._worker_id, stats, held=self._held.keys())
            for command in worker.commands if isinstance(worker, CommandedWorker) else ():
                self._on_command(command)
        except Exception as error:  # noqa: BLE001 - the next heartbeat may get through
            # Whoever claims says that the experiment is missing, and says it once.
            if not is_missing_experiment(error):
                logger.warning("heartbeat of %s failed: %s", self._worker_id, error)

    async def _report_begun(self, key: AttemptKey) -> None:
        try:
            await self._store.update_attempt(*key, status="running")
        except Exception as error:  # noqa: BLE001 - the attempt's spans, or its end, will say the same
            logger.warning("rollout %s, attempt %s could not be reported as running: %s", *key, error)

    def _stats(self) -> dict[str, Any]:
        return {**system_snapshot(self._include_gpu), "held": len(self._held.keys())}
