"""The default tracer, on OpenTelemetry's SDK."""

from __future__ import annotations

import secrets
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakSet

from opentelemetry import context as otel_context
from opentelemetry import trace as trace_api
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace.status import Status
from opentelemetry.trace.status import StatusCode as OtelStatusCode

from agentlightning.instrumentation.libraries import INSTRUMENTATION
from agentlightning.instrumentation.token_ids import token_attributes_of_span
from agentlightning.removed import raise_if_removed
from agentlightning.tracer.active import activated
from agentlightning.tracer.recorded import RecordedTracer, expect_ids_together, instant
from agentlightning.tracer.recording import Recording, current_recording, last_recording, opened
from agentlightning.types import Attributes, Span, SpanCoreFields, SpanRecordingContext, StatusCode, TraceStatus
from agentlightning.types.tracer import seconds_to_nanos

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

_SCOPE = "agentlightning"
_MOST_OPEN_SPANS = 100_000


class OtelTracer(RecordedTracer):
    """Records what OpenTelemetry instruments, each attempt apart from the others.

    Its tracer provider is its own and heeds none of the `OTEL_*` variables that sample, limit or switch off: spans
    are training data here. Spans made through OpenTelemetry's global API are recorded too: where the process has a
    provider of its own, that one stays and gets one more processor; where it has none, this tracer's becomes the
    global one. A span belongs to the attempt in whose context it starts, whichever thread ends it.

    All root spans of an attempt share one trace id. Spans leave in bounded batches in the background; leaving
    `trace_context`, and `flush`, wait for the store's acknowledgement.

    Between `init_worker` and `teardown_worker`, calls of model providers' libraries are recorded; see
    `agentlightning.instrumentation.instrument_all`.
    """

    def __init__(self, instrument: bool = True) -> None:
        """Makes the tracer.

        Args:
            instrument: Have model calls recorded. Say False if you instrument the libraries yourself later on, or if
                another process, such as a gateway, records their calls.
        """
        super().__init__()
        self._instrument = instrument
        self._instrumenting = False
        self._provider: TracerProvider | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_provider": None, "_instrumenting": False}

    def init_worker(self, worker_id: int, store: LightningStore | None = None, *args: Any, **kwargs: Any) -> None:
        super().init_worker(worker_id, store)
        if self._instrument and not self._instrumenting:
            INSTRUMENTATION.acquire(self.tracer_provider)
            self._instrumenting = True

    @property
    def tracer_provider(self) -> TracerProvider:
        """The provider to hand to instrumentation libraries."""
        if self._provider is None:
            provider = TracerProvider(
                sampler=ALWAYS_ON,
                id_generator=_AttemptIds(),
                span_limits=_NO_LIMITS,
                shutdown_on_exit=False,
            )
            # The constructor reads OTEL_SDK_DISABLED, which is meant for telemetry.
            provider._disabled = False  # noqa: SLF001
            provider.add_span_processor(_PROCESSOR)
            self._provider = provider
        return self._provider

    @asynccontextmanager
    async def trace_context(
        self,
        name: str | None = None,
        *,
        store: LightningStore | None = None,
        rollout_id: str | None = None,
        attempt_id: str | None = None,
    ) -> AsyncIterator[trace_api.Tracer]:
        """Records what runs in the block; see `Tracer.trace_context`.

        Spans that could not be stored by the end of the block are logged and kept; `flush` tries again.

        Yields:
            An OpenTelemetry tracer to make spans with.
        """
        expect_ids_together(rollout_id, attempt_id)
        if rollout_id is None and store is not None:
            raise ValueError("spans need a rollout_id and an attempt_id to be stored under")
        _route_global_spans(self.tracer_provider)
        recording = (
            Recording(rollout_id, attempt_id, store or self._store) if rollout_id and attempt_id else Recording()
        )
        try:
            with activated(self), opened(recording):
                self._last = recording
                # A span that the caller has open is no part of the attempt, nor is a decision of its sampler.
                token = otel_context.attach(trace_api.set_span_in_context(trace_api.INVALID_SPAN))
                try:
                    yield self.tracer_provider.get_tracer(_SCOPE)
                finally:
                    otel_context.detach(token)
        except Exception:
            await recording.flush_or_log()
            raise
        await recording.flush_or_log()

    def create_span(
        self,
        name: str,
        attributes: Attributes | None = None,
        timestamp: float | None = None,
        status: TraceStatus | None = None,
    ) -> SpanCoreFields:
        recording = self._recording()
        core = instant(name, attributes, timestamp, status)
        parent = trace_api.get_current_span().get_span_context()
        recording.add(
            Span.from_attributes(
                attributes=core.attributes,
                rollout_id=recording.rollout_id,
                attempt_id=recording.attempt_id,
                name=name,
                trace_id=f"{parent.trace_id if parent.is_valid else recording.trace_id:032x}",
                parent_id=f"{parent.span_id:016x}" if parent.is_valid else None,
                start_time=core.start_time,
                end_time=core.end_time,
                status=core.status,
            )
        )
        return core

    @contextmanager
    def operation_context(
        self,
        name: str,
        attributes: Attributes | None = None,
        start_time: float | None = None,
        end_time: float | None = None,
    ) -> Iterator[SpanRecordingContext]:
        self._recording()
        span = self.tracer_provider.get_tracer(_SCOPE).start_span(
            name,
            attributes=attributes,
            start_time=None if start_time is None else seconds_to_nanos(start_time),
        )
        operation = _OpenSpan(cast("SdkSpan", span))
        try:
            with trace_api.use_span(span, record_exception=False, set_status_on_exception=False):
                yield operation
        except BaseException as error:
            operation.record_exception(error)
            raise
        else:
            operation.succeed_unless_said()
        finally:
            span.end(None if end_time is None else seconds_to_nanos(end_time))

    def record_spans(self, spans: Sequence[Span]) -> bool:
        recording = self._recording()
        for span in spans:
            recording.add(span)
        return True

    async def flush(self) -> None:
        recording = last_recording() or self._last
        if recording is not None:
            await recording.flush()

    def teardown_worker(self, worker_id: int, *args: Any, **kwargs: Any) -> None:
        super().teardown_worker(worker_id)
        if self._instrumenting:
            INSTRUMENTATION.release()
            self._instrumenting = False
        self._store = None
        self._last = None

    def _recording(self) -> Recording:
        recording = current_recording()
        if recording is None:
            raise RuntimeError("no trace is open here; spans are made inside trace_context")
        return recording


class _OpenSpan:
    """An OpenTelemetry span that is still open, as a `SpanRecordingContext`."""

    def __init__(self, span: SdkSpan) -> None:
        self._span = span

    def record_exception(self, exception: BaseException) -> None:
        self._span.record_exception(exception)
        self._span.set_status(Status(OtelStatusCode.ERROR, f"{type(exception).__name__}: {exception}"))

    def record_attributes(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def record_status(self, status_code: StatusCode, description: str | None = None) -> None:
        # OpenTelemetry allows a description with ERROR only, and warns about others.
        said = description if status_code == "ERROR" else None
        self._span.set_status(Status(OtelStatusCode[status_code], said))

    def get_recorded_span(self) -> SpanCoreFields:
        span = self._span
        return SpanCoreFields(
            name=span.name,
            status=TraceStatus.from_opentelemetry(span.status),
            attributes=cast("Attributes", dict(span.attributes or {})),
            start_time=None if span.start_time is None else span.start_time / 1e9,
            end_time=None if span.end_time is None else span.end_time / 1e9,
        )

    def succeed_unless_said(self) -> None:
        if self._span.status.status_code is OtelStatusCode.UNSET:
            self._span.set_status(OtelStatusCode.OK)


class _AttemptIds(IdGenerator):
    """Ids from the system's source: agents seed Python's generator, and equal ids would pass for one span."""

    def generate_span_id(self) -> int:
        return secrets.randbits(64) or self.generate_span_id()

    def generate_trace_id(self) -> int:
        recording = current_recording()
        return recording.trace_id if recording is not None else secrets.randbits(128)


class _RecordingProcessor(SpanProcessor):
    """Hands each span, when it ends, to the recording in whose context it started."""

    def __init__(self) -> None:
        self._owners: dict[tuple[int, int], Recording] = {}
        self._lock = threading.Lock()

    def on_start(self, span: SdkSpan, parent_context: otel_context.Context | None = None) -> None:
        recording = current_recording()
        if recording is None:
            return
        context = span.get_span_context()
        with self._lock:
            # Spans that never end would pile up.
            while len(self._owners) >= _MOST_OPEN_SPANS:
                del self._owners[next(iter(self._owners))]
            self._owners[context.trace_id, context.span_id] = recording

    def on_end(self, span: ReadableSpan) -> None:
        context = span.get_span_context()
        if context is None:
            return
        with self._lock:
            recording = self._owners.pop((context.trace_id, context.span_id), None)
        if recording is not None:
            recorded = Span.from_opentelemetry(span, recording.rollout_id, recording.attempt_id, 0)
            recorded.attributes.update(token_attributes_of_span(recorded.attributes))
            recording.add(recorded)

    def shutdown(self) -> None:
        """Does nothing: the processor serves several providers."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Does nothing: recordings are flushed where they end."""
        return True


_PROCESSOR = _RecordingProcessor()
_NO_LIMITS = SpanLimits(
    max_attributes=SpanLimits.UNSET,
    max_events=SpanLimits.UNSET,
    max_links=SpanLimits.UNSET,
    max_span_attributes=SpanLimits.UNSET,
    max_event_attributes=SpanLimits.UNSET,
    max_link_attributes=SpanLimits.UNSET,
    max_attribute_length=SpanLimits.UNSET,
    max_span_attribute_length=SpanLimits.UNSET,
)
_routed: WeakSet[trace_api.TracerProvider] = WeakSet()
_routing_lock = threading.Lock()


def _route_global_spans(own: TracerProvider) -> None:
    """Has spans of OpenTelemetry's global API recorded too; see `OtelTracer`."""
    with _routing_lock:
        _routed.add(own)
        current = trace_api.get_tracer_provider()
        if current in _routed:
            return
        if isinstance(current, trace_api.ProxyTracerProvider):
            trace_api.set_tracer_provider(own)
        elif isinstance(current, TracerProvider):
            current.add_span_processor(_PROCESSOR)
            _routed.add(current)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        raise_if_removed(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
