"""How much a server takes on at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from agentlightning.store.errors import ResourceExhausted

MOST_PENDING_BYTES = 256 << 20
"""Bytes of requests that a server works on at once."""

_SMALLEST = 4096
_RETRY_AFTER = 1.0


class Admission:
    """Refuses requests while those that are being worked on are too large together. Belongs to one event loop.

    A request costs memory from its arrival to its answer; clients that send faster than the storage writes would fill
    the server otherwise. Small ones do not count: the storage bounds how many of them wait for it, and a claim, which
    waits for work, would count for minutes.

    Args:
        most_bytes: How large they may be together; one alone may be larger.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Count a request in while it is worked on.

        Raises:
            ResourceExhausted: There is too much to do; it may be sent again later.
        """
        if size < _SMALLEST:
            yield
            return
        if self._bytes and self._bytes + size > self._most_bytes:
            raise ResourceExhausted(
                f"The server is overloaded: it works on requests of {self._bytes} bytes. Try again later.",
                reason="OVERLOADED",
                retry_after=_RETRY_AFTER,
            )
        self._bytes += size
        try:
            yield
        finally:
            self._bytes -= size
