"""The timer that looks after attempts which nobody reports on."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable

logger = logging.getLogger(__name__)

_LONGEST_SLEEP = 60.0
_PAUSE_AFTER_FAILURE = 1.0


class Watchdog:
    """Calls `look` on a thread of its own whenever a deadline has come. The thread starts with the first deadline.

    Args:
        look: A bound method; does what is due, and returns the seconds until the next deadline, None for none. It is
            held weakly: the watchdog ends with the object that it serves.
    """

    def __init__(self, look: Callable[[], float | None]) -> None:
        self._look = weakref.WeakMethod(look)
        self._wake = threading.Condition()
        self._next: float | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def expect(self, within: float) -> None:
        """Look again in `within` seconds, or before."""
        at = time.monotonic() + within
        with self._wake:
            if self._closed or (self._next is not None and self._next <= at):
                return
            self._next = at
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="agentlightning-watchdog", daemon=True)
                self._thread.start()
            self._wake.notify()

    def close(self) -> None:
        """Look no more; returns when the last look is over."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _loop(self) -> None:
        while self._sleep():
            look = self._look()
            if look is None:
                return
            try:
                within = look()
            except Exception:
                logger.exception("The watchdog could not look after the attempts; it tries again.")
                within = _PAUSE_AFTER_FAILURE
            del look
            if within is not None:
                self.expect(within)

    def _sleep(self) -> bool:
        """Wait for the next deadline; False when the watchdog is to end."""
        with self._wake:
            while not self._closed:
                left = _LONGEST_SLEEP if self._next is None else self._next - time.monotonic()
                if left <= 0:
                    self._next = None
                    return True
                self._wake.wait(min(left, _LONGEST_SLEEP))
                if self._look() is None:
                    return False
            return False
