"""What ends a run from outside: Ctrl+C and SIGTERM, and what does the same to an agent that blocks the main thread."""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentlightning.execution.side import Side

_INTERRUPT_SECONDS = 1.0


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """Has SIGTERM end the block as Ctrl+C does, unless the program has an answer to SIGTERM of its own.

    Raises:
        KeyboardInterrupt: Ctrl+C was pressed.
        SystemExit: SIGTERM came; the exit code is 143, as shells have it.
    """
    came = False

    def interrupt(*_: object) -> None:
        nonlocal came
        came = True
        signal.raise_signal(signal.SIGINT)

    is_free = threading.current_thread() is threading.main_thread() and (
        signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if is_free:
        signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        # How the event loop came down is of no interest to who wanted that.
        raise SystemExit(128 + signal.SIGTERM) if came else KeyboardInterrupt from None
    finally:
        if is_free:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def interrupting_what_blocks(patience: float) -> Iterator[Callable[[Side], None]]:
    """Ends the block, as Ctrl+C does, if the run is over and an agent still blocks the event loop of this thread.

    Only the main thread can be interrupted; for a block in another one this does nothing.

    Args:
        patience: Seconds after which the run should be over when its algorithm is.

    Yields:
        What to call with the side that is the algorithm.

    Raises:
        RuntimeError: An agent was interrupted.
    """
    is_main = threading.current_thread() is threading.main_thread()
    through = threading.Event()
    blocked: list[Side] = []

    def watch(side: Side) -> None:
        side.over.wait()
        pause = patience
        # The first interrupt may only ask the event loop to end, which it does not hear.
        while not through.wait(pause):
            blocked.append(side)
            _interrupt_main_thread()
            pause = _INTERRUPT_SECONDS

    def begin(side: Side) -> None:
        if is_main:
            threading.Thread(target=watch, args=(side,), name="agl-watch-main-thread", daemon=True).start()

    try:
        yield begin
    except KeyboardInterrupt:
        if not blocked:
            raise
        raise RuntimeError(
            "the algorithm has ended, and the agent still blocked the event loop of its runner, in the main thread. It "
            "has been interrupted. An async agent must await what takes time, or leave it to asyncio.to_thread"
        ) from blocked[0].error
    finally:
        through.set()


def _interrupt_main_thread() -> None:
    if hasattr(signal, "pthread_kill"):
        # A signal of the system also ends calls that wait in it.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:
        _thread.interrupt_main()
