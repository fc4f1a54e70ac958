"""Which tracer records the code that is running, told apart by task and thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentlightning.tracer.base import Tracer

_active: ContextVar[Tracer | None] = ContextVar("agentlightning_active_tracer", default=None)
_open: list[Tracer] = []
_open_lock = threading.Lock()


def get_active_tracer() -> Tracer | None:
    """Returns the tracer that records the running code, or None.

    A thread that an agent started by itself inherits no context. There the tracer is found as long as this process
    records with one tracer only.
    """
    tracer = _active.get()
    if tracer is not None:
        return tracer
    with _open_lock:
        return _open[0] if _open and all(other is _open[0] for other in _open) else None


def require_active_tracer() -> Tracer:
    """Returns the active tracer.

    Raises:
        RuntimeError: There is none, or a thread without context cannot tell which of several it is.
    """
    tracer = get_active_tracer()
    if tracer is None:
        raise RuntimeError(
            "no tracer is active here: emitters work inside a rollout that a runner runs. In a thread that your agent "
            "starts, while several rollouts run at once, call through contextvars.copy_context().run(...)"
        )
    return tracer


def set_active_tracer(tracer: Tracer) -> None:
    """Makes `tracer` the active one of the current context.

    Raises:
        ValueError: Another one is active; traces do not nest.
    """
    _refuse_nesting()
    _active.set(tracer)


def clear_active_tracer() -> None:
    """Leaves the current context without an active tracer."""
    _active.set(None)


@contextmanager
def activated(tracer: Tracer) -> Iterator[None]:
    """Makes `tracer` the active one for the block.

    Raises:
        ValueError: Another one is active; traces do not nest.
    """
    _refuse_nesting()
    token = _active.set(tracer)
    with _open_lock:
        _open.append(tracer)
    try:
        yield
    finally:
        with _open_lock:
            # By identity: a tracer may define equality as it likes.
            del _open[next(index for index, other in enumerate(_open) if other is tracer)]
        _active.reset(token)


def _refuse_nesting() -> None:
    if _active.get() is not None:
        raise ValueError("An active tracer is already set; a trace cannot be opened inside another")
