"""What tracers share that keep each trace in a `Recording`."""

from __future__ import annotations

import time
from typing import Any

from agentlightning.tracer.base import Tracer
from agentlightning.tracer.recording import Recording, last_recording
from agentlightning.types import Attributes, Span, SpanCoreFields, TraceStatus


class RecordedTracer(Tracer):
    """A tracer whose traces are recordings. A subclass notes in `_last` each one that it opens."""

    def __init__(self) -> None:
        super().__init__()
        self._last: Recording | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy in another process starts afresh: recordings live where their threads are.
        return {**self.__dict__, "_last": None, "_store": None}

    def get_last_trace(self) -> list[Span]:
        recording = last_recording() or self._last
        return recording.spans if recording is not None else []


def expect_ids_together(rollout_id: str | None, attempt_id: str | None) -> None:
    """Checks the ids that a trace is opened for.

    Raises:
        ValueError: Only one of them is given.
    """
    if (rollout_id is None) != (attempt_id is None):
        raise ValueError("rollout_id and attempt_id belong together: give both or neither")


def instant(
    name: str, attributes: Attributes | None, timestamp: float | None, status: TraceStatus | None
) -> SpanCoreFields:
    """Returns the span without duration that `Tracer.create_span` is asked for."""
    moment = time.time() if timestamp is None else timestamp
    return SpanCoreFields(
        name=name,
        status=status or TraceStatus(status_code="OK"),
        attributes=attributes or {},
        start_time=moment,
        end_time=moment,
    )
