"""What the engine asks of a storage."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal, Protocol, TypeVar

from agentlightning.store.storage.clock import Clock
from agentlightning.store.storage.signals import Signal
from agentlightning.store.storage.tx import Tx

T = TypeVar("T")

Work = Callable[[Tx], T]
"""A piece of work: runs in one transaction, wholly or not at all, and must not wait for anything."""

Durability = Literal["power-cut", "crash", "none"]
"""What every answered write survives: `power-cut` a power cut and all less than that; `crash` the end of the store's
process, however it comes, but the last writes may be lost to a power cut; `none` promises nothing beyond that, and a
power cut may cost the whole database."""

DEFAULT_DURABILITY: Durability = "power-cut"

Listener = Callable[[list[Signal]], None]


class Storage(Protocol):
    """Holds rows and decides how works run. Safe to call from any thread and any event loop."""

    kind: str
    """`memory`, `sqlite` or `postgres`."""

    store_id: str
    """Identity of the stored data."""

    clock: Clock
    """Tells the time that all who work with the stored data go by."""

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

    def watch_term(self) -> int | None:
        """Return the number of the term for which this process looks after the attempts; None when another one does.

        A new term is announced by a `deadline` signal.
        """
        ...

    def close(self) -> None:
        """Finish the works at hand and let go of the data. Later works raise `Unavailable`."""
        ...
