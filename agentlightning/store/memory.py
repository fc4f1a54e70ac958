"""`InMemoryLightningStore`: a store that lives and dies with its process."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

from agentlightning.removed import describe_removed
from agentlightning.store.engine.engine import Engine
from agentlightning.store.engine.scope import SpanBound
from agentlightning.store.local import LocalStore
from agentlightning.store.opening import EVICT_ABOVE, SAFE_SHARE, open_memory
from agentlightning.store.storage.memory import MemoryStorage
from agentlightning.types import Span


class InMemoryLightningStore(LocalStore):
    """A store in this process's memory, with a bound: it drops the spans of finished rollouts, the oldest first.

    Nothing is dropped silently: what was is logged, counted in `statistics()`, and asking for it raises.

    Args:
        thread_safe: Accepted as in 0.3.0; the store is always safe to use from several threads.
        eviction_memory_threshold: Spans are dropped above this: a share of the machine's memory in (0, 1], or bytes
            from 1 on if an int. None bounds the whole store to 2 GiB.
        safe_memory_threshold: Spans are dropped down to this; None means four fifths of the other threshold.
        span_size_estimator: Deprecated: sizes are those that the spans have in the store.
        tracker: Not supported.
        scan_debounce_seconds: Accepted as in 0.3.0; a timer looks after attempts at the moment they are due.

    Raises:
        ValueError: A threshold is none, or the safe one is not below the other; or `tracker` is given.
    """

    def __init__(
        self,
        *,
        thread_safe: bool = True,
        eviction_memory_threshold: float | None = None,
        safe_memory_threshold: float | None = None,
        span_size_estimator: Callable[[Span], int] | None = None,
        tracker: Any = None,
        scan_debounce_seconds: float = 10.0,
    ) -> None:
        if tracker is not None:
            raise ValueError(describe_removed("InMemoryLightningStore(tracker=)"))
        if span_size_estimator is not None:
            warnings.warn(
                "span_size_estimator has no effect: spans are measured as they are stored",
                DeprecationWarning,
                stacklevel=2,
            )
        if eviction_memory_threshold is None and safe_memory_threshold is None:
            super().__init__(open_memory())
            return
        capacity = _machine_memory()
        evict_above = int(EVICT_ABOVE * capacity)
        if eviction_memory_threshold is not None:
            evict_above = _in_bytes(eviction_memory_threshold, capacity, "eviction_memory_threshold")
        evict_down_to = int(SAFE_SHARE * evict_above)
        if safe_memory_threshold is not None:
            evict_down_to = _in_bytes(safe_memory_threshold, capacity, "safe_memory_threshold")
        if evict_down_to >= evict_above:
            raise ValueError(
                f"safe_memory_threshold ({evict_down_to} bytes) must be below "
                f"eviction_memory_threshold ({evict_above} bytes)"
            )
        super().__init__(Engine(MemoryStorage(), span_bound=SpanBound(evict_above, evict_down_to)))


def _in_bytes(threshold: float, capacity: int, name: str) -> int:
    if isinstance(threshold, bool) or threshold <= 0 or (isinstance(threshold, float) and threshold > 1):
        raise ValueError(f"{name} must be a share in (0, 1] or a whole number of bytes, not {threshold!r}")
    return int(threshold * capacity) if isinstance(threshold, float) else int(threshold)


def _machine_memory() -> int:
    """Return the bytes of memory of this machine, 8 GiB where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 8 << 30
