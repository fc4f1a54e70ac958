"""The sides of a run, wherever they run: the algorithm, and each runner."""

from __future__ import annotations

import asyncio
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from agentlightning.execution.event_loop import run_to_the_end
from agentlightning.execution.events import ExecutionEvent, ThreadingEvent
from agentlightning.execution.worker_names import named_worker

if TYPE_CHECKING:
    from agentlightning.execution.base import RunnerBundle
    from agentlightning.store.base import LightningStore

logger = logging.getLogger(__name__)

Order = Literal["finish", "abort"]
"""What a side is told: `finish` the rollout at work and leave, or `abort` it."""

SideCall = Callable[[ExecutionEvent], Coroutine[Any, Any, None]]
"""What a side does until it is done, or the event is set."""


class Side(ABC):
    """One start of one side, as the event loop sees it that made this object.

    Attributes:
        name: What to call it in messages.
        over: Is set when it has ended; for any thread.
        error: The exception that ended it; of another process, one that describes its end.
        told_to_leave: Whether it was ordered to leave, or killed, from here.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.over = threading.Event()
        self.error: BaseException | None = None
        self.told_to_leave = False
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()

    @property
    def failed(self) -> bool:
        """Whether it has ended by itself and badly."""
        return self.error is not None and not self.told_to_leave

    def describe_end(self) -> str:
        """Returns how it ended, in words."""
        return f"{self.name} ended with {type(self.error).__name__}: {self.error}"

    async def wait(self) -> None:
        """Returns when it has ended."""
        await self._ended.wait()

    def order(self, order: Order) -> None:
        """Tells it to leave, if it has not."""
        if not self.over.is_set():
            self.told_to_leave = True
            self._pass_on(order)

    @abstractmethod
    def kill(self) -> None:
        """Ends it by force, as far as that is possible; its event loop need not run any more."""

    @abstractmethod
    def _pass_on(self, order: Order) -> None: ...

    def _end(self) -> None:
        self.over.set()
        with suppress(RuntimeError):  # nobody waits any more
            self._loop.call_soon_threadsafe(self._ended.set)


class TaskSide(Side):
    """A side on the event loop of the strategy."""

    def __init__(self, name: str, call: SideCall) -> None:
        super().__init__(name)
        self._event = ThreadingEvent()
        self._task = asyncio.ensure_future(call(self._event))
        self._task.add_done_callback(self._note_end)

    def kill(self) -> None:
        """Cancels it, which is all that can be done."""
        with suppress(RuntimeError):
            self._task.cancel()

    def _pass_on(self, order: Order) -> None:
        self._event.set()
        if order == "abort":
            self._task.cancel()

    def _note_end(self, task: asyncio.Future[None]) -> None:
        self.error = asyncio.CancelledError() if task.cancelled() else task.exception()
        self._end()


class ThreadSide(Side):
    """A side in a thread with an event loop of its own. The thread is a daemon: it may be left behind."""

    def __init__(self, name: str, call: SideCall) -> None:
        super().__init__(name)
        self._call = call
        self._event = ThreadingEvent()
        self._aborted = False
        self._running: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None
        threading.Thread(target=self._body, name=f"agl-{name.replace(' ', '-')}", daemon=True).start()

    def kill(self) -> None:
        """Leaves it behind: a thread cannot be killed."""
        self.told_to_leave = True
        logger.warning("%s does not end; its thread is left behind", self.name)

    def _pass_on(self, order: Order) -> None:
        self._event.set()
        if order == "abort":
            self._aborted = True
            if self._running is not None:
                loop, task = self._running
                with suppress(RuntimeError):  # it has ended since
                    loop.call_soon_threadsafe(task.cancel)

    def _body(self) -> None:
        try:
            run_to_the_end(self._run())
        except BaseException as error:  # noqa: BLE001 - whoever waits for the end learns of it
            self.error = error
        finally:
            self._end()

    async def _run(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running = (asyncio.get_running_loop(), task)
        # The order may have come before there was a task to cancel.
        if not self._aborted:
            await self._call(self._event)


async def run_runner(
    bundle: RunnerBundle, worker_id: int, worker_name: str, store: LightningStore, event: ExecutionEvent
) -> None:
    """Runs one runner to its end. With all arguments but the last it is a `SideCall`.

    Args:
        bundle: The runners' side of the run.
        worker_id: Number of the runner.
        worker_name: What the store is to call it.
        store: The store to take rollouts from.
        event: Tells it to leave.
    """
    with named_worker(worker_name):
        await bundle(store, worker_id, event)


async def outcome_of(side: Side, *, patience: float) -> None:
    """Waits until a side has ended. If this call is cancelled, the side is aborted, and killed if need be.

    Args:
        side: The side.
        patience: Seconds that it gets to leave when it is aborted.

    Raises:
        Exception: What it ended with.
    """
    try:
        await side.wait()
    except asyncio.CancelledError:
        side.order("abort")
        await within(side.wait(), patience)
        raise
    finally:
        if not side.over.is_set():
            side.kill()
    if side.error is not None:
        raise side.error


async def within(awaitable: Coroutine[Any, Any, Any], seconds: float) -> bool:
    """Awaits for at most `seconds`; returns whether that was enough."""
    # Not asyncio.wait_for: before Python 3.12 it swallows a cancellation that comes with the result.
    task = asyncio.ensure_future(awaitable)
    try:
        await asyncio.wait({task}, timeout=seconds)
        if not task.done():
            return False
        task.result()
        return True
    finally:
        task.cancel()
