"""What ends a run from outside: Ctrl+C and SIGTERM."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


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
