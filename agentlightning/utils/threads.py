"""Blocking calls beside an event loop, and one loop of the process's own for work that must not stop."""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

_background: tuple[int, asyncio.AbstractEventLoop] | None = None
_background_lock = threading.Lock()


def run_in_thread(call: Callable[..., T], /, *args: Any, **kwargs: Any) -> asyncio.Future[T]:
    """Runs `call` in a thread of its own, in a copy of the current context.

    Unlike `asyncio.to_thread` there is no pool to run dry, and the thread is a daemon: a call that never returns
    keeps neither the loop nor the process from ending.

    Returns:
        What the call returns or raises, whichever exception that is. Cancelling the future leaves the thread running.
    """
    context = contextvars.copy_context()
    outcome: Future[T] = Future()

    def body() -> None:
        try:
            outcome.set_result(context.run(call, *args, **kwargs))
        except StopIteration as error:
            # A future cannot carry StopIteration.
            outcome.set_exception(RuntimeError(f"the call raised {error!r}"))
        except BaseException as error:  # noqa: BLE001 - handed over, not swallowed
            outcome.set_exception(error)

    # Running, so that cancelling the asyncio side does not forbid set_result.
    outcome.set_running_or_notify_cancel()
    wrapped = asyncio.wrap_future(outcome)
    threading.Thread(target=body, name=f"agl-{getattr(call, '__name__', 'call')}", daemon=True).start()
    return wrapped


def background_loop() -> asyncio.AbstractEventLoop:
    """Returns an event loop that runs in a daemon thread of this process.

    Heartbeats and span batches go through it, so that an agent that blocks its own loop stops neither. There is one
    for the whole process, because each loop that talks to a store costs a connection.
    """
    global _background
    with _background_lock:
        # A forked child has the parent's loop object but not its thread.
        if _background is None or _background[0] != os.getpid() or _background[1].is_closed():
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=_run_loop, args=(loop,), name="agl-background", daemon=True)
            thread.start()
            atexit.register(_stop_loop, loop, thread, os.getpid())
            _background = (os.getpid(), loop)
        return _background[1]


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        pending = asyncio.all_tasks(loop)
        for task in pending:
            task.cancel()
        loop.run_until_complete(asyncio.wait(pending, timeout=1.0) if pending else asyncio.sleep(0))
        loop.close()


def _stop_loop(loop: asyncio.AbstractEventLoop, thread: threading.Thread, pid: int) -> None:
    # Left running, the thread would still be inside the loop while the interpreter takes its modules down.
    if pid == os.getpid() and not loop.is_closed():
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=2.0)
