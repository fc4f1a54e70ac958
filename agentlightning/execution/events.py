"""Stop events: one side sets them, the other looks at them."""

from __future__ import annotations

import multiprocessing
import threading
from multiprocessing.context import BaseContext
from typing import Protocol, runtime_checkable


@runtime_checkable
class ExecutionEvent(Protocol):
    """What algorithms and runners need of an event."""

    def set(self) -> None:
        """Sets the event."""

    def clear(self) -> None:
        """Takes it back."""

    def is_set(self) -> bool:
        """Returns whether it is set."""

    def wait(self, timeout: float | None = None) -> bool:
        """Blocks until it is set, for at most `timeout` seconds; returns whether it is."""


class ThreadingEvent:
    """An event among the threads of one process."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Sets the event."""
        self._event.set()

    def clear(self) -> None:
        """Takes it back."""
        self._event.clear()

    def is_set(self) -> bool:
        """Returns whether it is set."""
        return self._event.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Blocks until it is set, for at most `timeout` seconds; returns whether it is."""
        return self._event.wait(timeout)


class MultiprocessingEvent:
    """An event among processes. It can be handed to a process when that is started.

    A process that is killed while it looks at the event can leave it locked for all others; the strategies of this
    package tell their processes to stop by other means.
    """

    def __init__(self, *, ctx: BaseContext | None = None) -> None:
        """Makes the event.

        Args:
            ctx: The multiprocessing context of the processes that share it; `spawn` unless given.
        """
        self._event = (ctx or multiprocessing.get_context("spawn")).Event()

    def set(self) -> None:
        """Sets the event."""
        self._event.set()

    def clear(self) -> None:
        """Takes it back."""
        self._event.clear()

    def is_set(self) -> bool:
        """Returns whether it is set."""
        return self._event.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Blocks until it is set, for at most `timeout` seconds; returns whether it is."""
        return self._event.wait(timeout)
