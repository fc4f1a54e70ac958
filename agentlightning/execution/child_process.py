"""What runs in a process of a run."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Final

from agentlightning.execution.event_loop import run_to_the_end
from agentlightning.execution.events import ExecutionEvent, ThreadingEvent

if TYPE_CHECKING:
    from agentlightning.execution.identity import StoreIdentity
    from agentlightning.execution.side import Order, SideCall
    from agentlightning.store.base import LightningStore

logger = logging.getLogger(__name__)

ORPHAN_SECONDS: Final = 10.0
"""How long a process that lost its parent may take to leave."""
_PARENT_CHECK_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Started:
    """The child's first message: it has been set up and begins."""


@dataclass(frozen=True)
class Crashed:
    """The child's last message, when it ends with an exception."""

    error: str
    """The exception in one line."""


@dataclass(frozen=True)
class LogSetup:
    """How the parent logs, for the child to do alike."""

    level: int
    """Level of this library's logger."""
    handled: bool
    """Whether anything handles its records."""

    @classmethod
    def of_this_process(cls) -> LogSetup:
        """Reads the set-up of the running process."""
        log = logging.getLogger("agentlightning")
        return cls(level=log.getEffectiveLevel(), handled=log.hasHandlers())

    def apply(self) -> None:
        """Sets the running process up likewise, unless its main module has done so."""
        log = logging.getLogger("agentlightning")
        if self.handled and not log.hasHandlers():
            logging.basicConfig(format="%(asctime)s %(levelname)s [%(processName)s] %(name)s: %(message)s")
        if log.level == logging.NOTSET:
            log.setLevel(self.level)


def run_child(call: SideCall, orders: Connection, log_setup: LogSetup) -> None:
    """Runs one side until the parent says so, or is gone. The target of a process.

    Args:
        call: What the side does.
        orders: The child's end of a two-way connection to the parent.
        log_setup: How to log.
    """
    log_setup.apply()
    # Ctrl+C reaches the whole process group. The parent decides what it means and gives orders. A handler that does
    # nothing is not inherited by the agent's own child processes, as SIG_IGN would be.
    signal.signal(signal.SIGINT, lambda *_: None)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    orders.send(Started())
    try:
        run_to_the_end(_run(call, orders))
    except asyncio.CancelledError:
        logger.info("stopped")
    except BaseException as error:
        with suppress(OSError):
            orders.send(Crashed("".join(traceback.format_exception_only(type(error), error)).strip()))
        raise


async def run_with_store(
    call: Callable[[LightningStore, ExecutionEvent], Awaitable[None]],
    store: LightningStore,
    identity: StoreIdentity | None,
    event: ExecutionEvent,
) -> None:
    """Runs a side on a store that came from the parent process, and closes that.

    With all arguments but the last it is a `SideCall`.

    Args:
        call: What the side does with the store, until it is done or the event is set.
        store: The store.
        identity: Which store it is in the parent; None where that does not matter.
        event: Tells it to leave.

    Raises:
        RuntimeError: It is another store here.
    """
    try:
        if identity is not None:
            await identity.check(store)
        await call(store, event)
    finally:
        close = getattr(store, "close", None)
        if close is not None:
            await close()


async def _run(call: SideCall, orders: Connection) -> None:
    event = ThreadingEvent()
    aborted = threading.Event()
    loop = asyncio.get_running_loop()
    running = asyncio.ensure_future(call(event))

    def abort() -> None:
        event.set()
        aborted.set()
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(running.cancel)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: abort())
    threading.Thread(
        target=_follow_orders, args=(orders, event, abort, os.getppid()), name="agl-orders", daemon=True
    ).start()
    try:
        await running
    except asyncio.CancelledError:
        if aborted.is_set():
            raise
        raise RuntimeError("something in the process cancelled it, such as an agent that cancels all tasks") from None


def _follow_orders(orders: Connection, event: ThreadingEvent, abort: Callable[[], None], parent: int) -> None:
    try:
        while True:
            # Processes forked elsewhere may hold the parent's end open; the parent's id tells for sure.
            if orders.poll(_PARENT_CHECK_SECONDS):
                order: Order = orders.recv()
                if order == "finish":
                    event.set()
                else:
                    abort()
            elif os.getppid() != parent:
                break
    except (EOFError, OSError):
        pass
    logger.warning("the process that started this one is gone; leaving")
    abort()
    # A rollout that cannot be interrupted must not keep an orphan alive.
    timer = threading.Timer(ORPHAN_SECONDS, _leave_at_once)
    timer.daemon = True
    timer.start()


def _leave_at_once() -> None:
    sys.stderr.flush()
    os._exit(1)
