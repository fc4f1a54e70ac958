from __future__ import annotations

import pickle

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import Link, SpanKind, Status, StatusCode
from pydantic import ValidationError

from agentlightning.types import (
    OtelResource,
    Span,
    SpanContext,
    SpanCoreFields,
    SpanNames,
    TraceStatus,
    convert_timestamp,
)
from agentlightning.types.tracer import NANOS, seconds_to_nanos

START = 1_700_000_000_123_456_789


def record_span() -> ReadableSpan:
    tracer = TracerProvider(resource=Resource({"service.name": "agent"})).get_tracer("lib", "1.2")
    with tracer.start_as_current_span("outer") as outer:
        span = tracer.start_span(
            "inner", kind=SpanKind.CLIENT, links=[Link(outer.get_span_context(), {"why": "x"})], start_time=START
        )
        span.set_attributes({"ids": [1, 2], "name": "n", "ok": True, "score": 0.5})
        span.add_event("tick", {"k": "v"}, timestamp=START + 7)
        span.set_status(Status(StatusCode.ERROR, "bad"))
        span.end(START + NANOS)
    assert isinstance(span, ReadableSpan)
    return span


def test_a_span_of_opentelemetry_keeps_all_it_says() -> None:
    source = record_span()
    span = Span.from_opentelemetry(source, "ro-1", "at-1", 3)
    context, parent = source.get_span_context(), source.parent
    assert context is not None
    assert parent is not None
    assert (span.rollout_id, span.attempt_id, span.sequence_id, span.name) == ("ro-1", "at-1", 3, "inner")
    assert span.trace_id == f"{context.trace_id:032x}"
    assert span.span_id == f"{context.span_id:016x}"
    assert span.parent_id == f"{parent.span_id:016x}"
    assert span.status == TraceStatus(status_code="ERROR", description="bad")
    assert dict(span.attributes) == {"ids": (1, 2), "name": "n", "ok": True, "score": 0.5}
    assert [(event.name, event.attributes) for event in span.events] == [("tick", {"k": "v"})]
    assert span.links[0].context.span_id == span.parent_id
    assert span.links[0].attributes == {"why": "x"}
    assert span.context == SpanContext(trace_id=span.trace_id, span_id=span.span_id, is_remote=False, trace_state={})
    assert span.resource.attributes == {"service.name": "agent"}
    assert span.model_extra == {"kind": "CLIENT", "instrumentation_scope": {"name": "lib", "version": "1.2"}}


def test_times_of_opentelemetry_are_seconds_and_lose_no_nanosecond() -> None:
    span = Span.from_opentelemetry(record_span(), "ro-1", "at-1", 1)
    assert span.start_time == START / NANOS
    assert span.start_time_unix_nano == START
    assert span.end_time_unix_nano == START + NANOS
    assert span.events[0].timestamp_unix_nano == START + 7
    for other in (span.model_copy(deep=True), pickle.loads(pickle.dumps(span))):
        assert other == span
        assert other.start_time_unix_nano == START


def test_a_new_time_takes_the_place_of_the_exact_one() -> None:
    span = Span.from_opentelemetry(record_span(), "ro-1", "at-1", 1)
    span.start_time = 5.5
    assert span.start_time_unix_nano == 5_500_000_000
    span.start_time = None
    assert span.start_time_unix_nano is None


def test_a_span_of_attributes_gets_random_ids_and_a_name() -> None:
    first = Span.from_attributes(attributes={"a": 1})
    second = Span.from_attributes(attributes={"a": 1})
    assert (first.rollout_id, first.attempt_id, first.sequence_id) == ("", "", 0)
    assert first.name == SpanNames.VIRTUAL.value == "agentlightning.virtual"
    assert first.status == TraceStatus(status_code="OK")
    assert first.resource == OtelResource(attributes={}, schema_url="")
    assert len(bytes.fromhex(first.trace_id)) == 16
    assert len(bytes.fromhex(first.span_id)) == 8
    assert (first.trace_id, first.span_id) != (second.trace_id, second.span_id)
    assert first.parent is None
    child = Span.from_attributes(attributes={}, trace_id=first.trace_id, parent_id=first.span_id)
    assert child.parent == first.context


def test_a_span_of_core_fields_keeps_them() -> None:
    core = SpanCoreFields(
        name="n", status=TraceStatus(status_code="ERROR"), attributes={"x": "y"}, start_time=1.0, end_time=2.0
    )
    span = Span.from_core_fields(core, rollout_id="ro-1", attempt_id="at-1", sequence_id=4)
    assert (span.rollout_id, span.attempt_id, span.sequence_id) == ("ro-1", "at-1", 4)
    assert SpanCoreFields.model_validate(span.model_dump()) == core


@pytest.mark.parametrize("bad", [{"a": object()}, {"a": [object()]}, {1: "a"}, {"a": {2: "b"}}, [], "a"])
def test_attributes_that_nothing_can_carry_are_refused(bad: object) -> None:
    with pytest.raises(ValidationError):
        OtelResource.model_validate({"attributes": bad, "schema_url": ""})


def test_attributes_keep_the_type_of_their_values() -> None:
    attributes = {"b": True, "i": 1, "f": 1.0, "s": "1", "l": [1, 2], "raw": b"\x00", "deep": {"x": [1, "a", None]}}
    kept = OtelResource.model_validate({"attributes": attributes, "schema_url": ""}).attributes
    assert repr(kept) == repr(attributes)


def test_a_span_describes_its_attributes_in_its_schema() -> None:
    for mode in ("validation", "serialization"):
        schema = Span.model_json_schema(mode=mode)  # type: ignore[arg-type]
        assert schema["properties"]["attributes"]["type"] == "object"


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(None, None), (0, None), (1_700_000_000_500_000_000, 1_700_000_000.5), (1_700_000_000, 1_700_000_000), (1.5, 1.5)],
)
def test_timestamps_become_seconds(given: float | None, seconds: float | None) -> None:
    assert convert_timestamp(given) == seconds


@pytest.mark.parametrize("seconds", [0.0, 0.1, 1.5, -1.5, 1_700_000_000.1234567, 1_763_842_223.999999])
def test_seconds_come_back_from_nanoseconds(seconds: float) -> None:
    assert seconds_to_nanos(seconds) / NANOS == seconds
