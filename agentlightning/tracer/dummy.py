"""A tracer for tests and for code outside of rollouts: what it records stays in memory."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from agentlightning.tracer.active import activated, get_active_tracer
from agentlightning.tracer.recorded import RecordedTracer, expect_ids_together, instant
from agentlightning.tracer.recording import Recording, current_recording, opened
from agentlightning.types import Attributes, Span, SpanCoreFields, SpanRecordingContext, StatusCode, TraceStatus
from agentlightning.utils.otel import format_exception_attributes

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

_parent_id: ContextVar[str | None] = ContextVar("agentlightning_dummy_parent_id", default=None)


class DummyTracer(RecordedTracer):
    """Records the spans that are made through it, in memory only: no store gets them, and OpenTelemetry is not used.

    Spans can be made without an open trace, too. Then they are only returned.
    """

    @asynccontextmanager
    async def trace_context(
        self,
        name: str | None = None,
        *,
        store: LightningStore | None = None,
        rollout_id: str | None = None,
        attempt_id: str | None = None,
    ) -> AsyncIterator[DummyTracer]:
        """Records what is made through this tracer in the block; see `Tracer.trace_context`.

        Yields:
            This tracer.
        """
        expect_ids_together(rollout_id, attempt_id)
        recording = Recording(rollout_id or "", attempt_id or "")
        with activated(self), opened(recording):
            self._last = recording
            token = _parent_id.set(None)
            try:
                yield self
            finally:
                _parent_id.reset(token)

    def create_span(
        self,
        name: str,
        attributes: Attributes | None = None,
        timestamp: float | None = None,
        status: TraceStatus | None = None,
    ) -> SpanCoreFields:
        core = instant(name, attributes, timestamp, status)
        self._record(core, secrets.token_hex(8))
        return core

    @contextmanager
    def operation_context(
        self,
        name: str,
        attributes: Attributes | None = None,
        start_time: float | None = None,
        end_time: float | None = None,
    ) -> Iterator[SpanRecordingContext]:
        operation = _OpenSpan(name, attributes or {}, time.time() if start_time is None else start_time)
        span_id = secrets.token_hex(8)
        token = _parent_id.set(span_id)
        try:
            yield operation
        except BaseException as error:
            operation.record_exception(error)
            raise
        finally:
            _parent_id.reset(token)
            self._record(operation.finish(time.time() if end_time is None else end_time), span_id)

    def _record(self, core: SpanCoreFields, span_id: str) -> None:
        recording = current_recording() if get_active_tracer() is self else None
        if recording is None:
            return
        recording.add(
            Span.from_attributes(
                attributes=core.attributes,
                rollout_id=recording.rollout_id,
                attempt_id=recording.attempt_id,
                name=core.name,
                trace_id=f"{recording.trace_id:032x}",
                span_id=span_id,
                parent_id=_parent_id.get(),
                start_time=core.start_time,
                end_time=core.end_time,
                status=core.status,
            )
        )


class _OpenSpan:
    """A span that is still open, as a `SpanRecordingContext`. An exception becomes attributes."""

    def __init__(self, name: str, attributes: Attributes, start_time: float) -> None:
        self._core = SpanCoreFields(
            name=name,
            status=TraceStatus(status_code="UNSET"),
            attributes=attributes,
            start_time=start_time,
            end_time=None,
        )

    def record_exception(self, exception: BaseException) -> None:
        self.record_attributes(format_exception_attributes(exception))
        self.record_status("ERROR", f"{type(exception).__name__}: {exception}")

    def record_attributes(self, attributes: Attributes) -> None:
        self._core.attributes.update(attributes)

    def record_status(self, status_code: StatusCode, description: str | None = None) -> None:
        self._core.status = TraceStatus(status_code=status_code, description=description)

    def get_recorded_span(self) -> SpanCoreFields:
        return self._core.model_copy(deep=True)

    def finish(self, end_time: float) -> SpanCoreFields:
        self._core.end_time = end_time
        if self._core.status.status_code == "UNSET":
            self.record_status("OK")
        return self._core
