"""The clock of a store."""

from __future__ import annotations

import time


class Clock:
    """Wall-clock time that never goes back: the time at its making, and from there on what really passed."""

    def __init__(self) -> None:
        self._offset = time.time_ns() - time.monotonic_ns()

    def now(self) -> int:
        """Return nanoseconds since the Unix epoch."""
        return self._offset + time.monotonic_ns()
