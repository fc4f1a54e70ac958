"""Threads that run works in groups, and hand the outcomes to whoever waits for them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import math
import os
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from queue import SimpleQueue
from typing import Any

from agentlightning.store.errors import ResourceExhausted, Unavailable
from agentlightning.store.forks import ForkedError
from agentlightning.store.storage.base import Listener, T, Work
from agentlightning.store.storage.signals import Signal
from agentlightning.store.storage.tx import Tx

logger = logging.getLogger(__name__)

_MOST_IN_GROUP = 256
MOST_WAITING = 10_000
"""Works of callers that may wait for their turn; each further one is refused until there are fewer."""

_RETRY_WHEN_OVERLOADED = 1.0


class Job:
    """A work and whoever waits for it: a future of an event loop, or one of threads."""

    __slots__ = ("error", "future", "loop", "result", "work")

    def __init__(
        self,
        work: Callable[[Tx], Any],
        future: asyncio.Future[Any] | concurrent.futures.Future[Any],
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        self.work = work
        self.future = future
        self.loop = loop
        self.result: Any = None
        self.error: BaseException | None = None

    def settle(self) -> None:
        """Hand the outcome over; on the thread of the future's loop."""
        if self.future.done():  # its caller was cancelled
            return
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.error)

    def let_go(self, _: object) -> None:
        """Forget the work, which holds a request: its turn may be long to come when nobody waits for it any more."""
        self.work = _nothing


def _nothing(tx: Tx) -> None:
    """Do the work of a caller who was cancelled."""


class Groups:
    """Threads that each take all works that are waiting and run them together.

    Args:
        name: Of the threads.
        place: What the store is in.
        runners: One for each thread: runs works, and settles each of them.
    """

    def __init__(self, name: str, place: str, runners: Sequence[Callable[[list[Job]], None]]) -> None:
        self._place = place
        self._process = os.getpid()
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._closed = False
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._loop, args=(run,), name=f"{name}-{number}", daemon=True)
            for number, run in enumerate(runners)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Work[T]) -> asyncio.Future[T]:
        """Run a work for the running event loop."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        job = Job(work, future, loop)
        self._put(job, MOST_WAITING)
        future.add_done_callback(job.let_go)
        return future

    def submit_blocking(self, work: Work[T]) -> T:
        """Run a work, and return its result. It is never refused: the store's own threads, which are few, use this."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._put(Job(work, future, None))
        return future.result()

    def _put(self, job: Job, most_waiting: float = math.inf) -> None:
        if os.getpid() != self._process:
            raise ForkedError(
                f"A store in a {self._place} does not survive a fork; serve it with LightningStoreServer, and give the "
                "child a LightningStoreClient."
            )
        with self._lock:
            if self._closed:
                raise Unavailable("The store has been closed.", reason="STORE_CLOSED")
            if self._jobs.qsize() >= most_waiting:
                raise ResourceExhausted(
                    f"The store is overloaded: {most_waiting} calls wait for the {self._place}. Try again later.",
                    reason="OVERLOADED",
                    retry_after=_RETRY_WHEN_OVERLOADED,
                )
            self._jobs.put(job)

    def close(self) -> None:
        """Finish the works at hand, and end the threads."""
        with self._lock:
            already, self._closed = self._closed, True
        if not already:
            self._jobs.put(None)
            for thread in self._threads:
                thread.join()

    def _loop(self, run: Callable[[list[Job]], None]) -> None:
        while (job := self._jobs.get()) is not None:
            group = [job]
            while len(group) < _MOST_IN_GROUP and not self._jobs.empty():
                following = self._jobs.get()
                if following is None:
                    self._jobs.put(None)
                    break
                group.append(following)
            group = [job for job in group if not job.future.cancelled()]
            if not group:
                continue
            try:
                run(group)
            except BaseException as error:
                logger.exception("The storage failed; works that follow may fail too.")
                for job in group:
                    job.error = job.error or error
                settle(group)
        self._jobs.put(None)  # for the next thread


def settle(jobs: Iterable[Job]) -> None:
    """Hand outcomes over with one wake-up for each event loop."""
    by_loop: dict[asyncio.AbstractEventLoop | None, list[Job]] = {}
    for job in jobs:
        by_loop.setdefault(job.loop, []).append(job)
    for loop, of_loop in by_loop.items():
        if loop is None:
            _settle_here(of_loop)
        elif not loop.is_closed():
            try:
                loop.call_soon_threadsafe(_settle_here, of_loop)
            except RuntimeError:  # closed since: nobody waits any more
                continue


def _settle_here(jobs: list[Job]) -> None:
    for job in jobs:
        job.settle()


class GroupedStorage:
    """What storages share whose works run in groups. A subclass makes `_writes` and `_reads`, and tells of commits."""

    _writes: Groups
    _reads: Groups

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def _tell(self, signals: list[Signal]) -> None:
        for listener in self._listeners:
            try:
                listener(signals)
            except Exception:
                logger.exception("Those who wait could not be told of a commit.")

    def on_commit(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def run(self, work: Work[T]) -> Awaitable[T]:
        return self._writes.submit(work)

    def read(self, work: Work[T]) -> Awaitable[T]:
        return self._reads.submit(work)

    def run_blocking(self, work: Work[T]) -> T:
        return self._writes.submit_blocking(work)
