"""What the engine asks of a storage."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from agentlightning.store.storage.signals import Signal
from agentlightning.store.storage.tx import Tx

T = TypeVar("T")

Work = Callable[[Tx], T]
"""A piece of work: runs in one transaction, wholly or not at all, and must not wait for anything."""

Listener = Callable[[list[Signal]], None]


class Storage(Protocol):
    """Holds rows and decides how works run. Safe to call from any thread and any event loop."""

    kind: str
    """`memory`, `sqlite` or `postgres`."""

    store_id: str
    """Identity of the stored data."""

    def run(self, work: Work[T]) -> Awaitable[T]:
        """Run a work that writes; answers after its commit. A work whose caller was cancelled in time never runs."""
        ...

    def read(self, work: Work[T]) -> Awaitable[T]:
        """Run a work that only reads; it sees every write that was answered before."""
        ...

    def run_blocking(self, work: Work[T]) -> T:
        """Like `run`, for callers without an event loop."""
        ...

    def on_commit(self, listener: Listener) -> None:
        """Call `listener` with the signals of each commit, from whichever thread committed, before the answers."""
        ...

    def close(self) -> None:
        """Finish the works at hand and let go of the data. Later works raise `Unavailable`."""
        ...
