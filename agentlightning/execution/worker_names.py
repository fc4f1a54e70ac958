"""What the store calls the runners of a run."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_current: ContextVar[str | None] = ContextVar("agl_worker_name", default=None)


def local_name(worker_id: int) -> str:
    """Returns the name of a runner whose store serves this run alone."""
    return f"Worker-{worker_id}"


def machine_wide_name(worker_id: int) -> str:
    """Returns the name of a runner of this process whose store other machines use too."""
    return f"{local_name(worker_id)}@{socket.gethostname()}-{os.getpid()}"


def current_worker_name() -> str | None:
    """Returns what the strategy wants the runner of the current code to be called; None outside of a strategy.

    A runner bundle hands it to `Runner.init_worker` as `worker_name`.
    """
    return _current.get()


@contextmanager
def named_worker(name: str) -> Iterator[None]:
    """Has `current_worker_name` return `name` in the block, and in what is started there."""
    token = _current.set(name)
    try:
        yield
    finally:
        _current.reset(token)
