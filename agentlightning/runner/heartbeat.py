"""The signs of life of a runner, and what the store tells it in return."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from agentlightning.tracer.recording import nowhere
from agentlightning.types import CommandedWorker, WorkerCommand
from agentlightning.utils.system_snapshot import system_snapshot
from agentlightning.utils.threads import background_loop, run_in_thread

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

logger = logging.getLogger(__name__)

AttemptKey = tuple[str, str]


class Heartbeat:
    """Tells the store, again and again, that a worker lives and which attempts it holds."""

    def __init__(
        self,
        store: LightningStore,
        worker_id: str,
        *,
        interval: float,
        jitter: float,
        held: Callable[[], Sequence[AttemptKey]],
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
            held: Returns `(rollout_id, attempt_id)` of what the worker holds; called from any thread.
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
                await asyncio.sleep(self._interval + random.uniform(-self._jitter, self._jitter))

    async def _beat(self) -> None:
        try:
            # Asking the GPUs takes a subprocess.
            stats = await run_in_thread(self._stats) if self._include_gpu else self._stats()
            worker = await self._store.update_worker(self._worker_id, stats, held=self._held())
            for command in worker.commands if isinstance(worker, CommandedWorker) else ():
                self._on_command(command)
        except Exception as error:  # noqa: BLE001 - the next heartbeat may get through
            logger.warning("heartbeat of %s failed: %s", self._worker_id, error)

    def _stats(self) -> dict[str, Any]:
        return {**system_snapshot(self._include_gpu), "held": len(self._held())}


class HeldAttempts:
    """The attempts that a runner holds, for its own loop and its heartbeat's."""

    def __init__(self) -> None:
        self._keys: dict[AttemptKey, Callable[[str], None]] = {}
        self._lock = threading.Lock()

    def add(self, key: AttemptKey, stop: Callable[[str], None]) -> None:
        """Notes an attempt, and whom to call, from any thread, with the reason if it is to be stopped."""
        with self._lock:
            self._keys[key] = stop

    def discard(self, key: AttemptKey) -> None:
        """Forgets an attempt."""
        with self._lock:
            self._keys.pop(key, None)

    def keys(self) -> list[AttemptKey]:
        """Returns the attempts."""
        with self._lock:
            return list(self._keys)

    def stop(self, key: AttemptKey, reason: str) -> None:
        """Has an attempt stopped, if it is held."""
        with self._lock:
            stop = self._keys.get(key)
        if stop is not None:
            stop(reason)
