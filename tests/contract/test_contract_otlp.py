"""Spans of the contract are those of OTLP, byte for byte."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.resource.v1 import resource_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from lightning_store import v1

OWN_FIELDS_FROM = 100

PAIRS = [
    (v1.AddSpansRequest, ExportTraceServiceRequest),
    (v1.ResourceSpans, trace_pb2.ResourceSpans),
    (v1.ScopeSpans, trace_pb2.ScopeSpans),
    (v1.Span, trace_pb2.Span),
    (v1.SpanEvent, trace_pb2.Span.Event),
    (v1.SpanLink, trace_pb2.Span.Link),
    (v1.SpanStatus, trace_pb2.Status),
    (v1.SpanResource, resource_pb2.Resource),
    (v1.InstrumentationScope, common_pb2.InstrumentationScope),
    (v1.AnyValue, common_pb2.AnyValue),
    (v1.ArrayValue, common_pb2.ArrayValue),
    (v1.KeyValueList, common_pb2.KeyValueList),
    (v1.KeyValue, common_pb2.KeyValue),
]
COUNTERPARTS = {ours.DESCRIPTOR.full_name: theirs.DESCRIPTOR.full_name for ours, theirs in PAIRS} | {
    v1.SpanKind.DESCRIPTOR.full_name: trace_pb2.Span.SpanKind.DESCRIPTOR.full_name,
    v1.SpanStatusCode.DESCRIPTOR.full_name: trace_pb2.Status.StatusCode.DESCRIPTOR.full_name,
}


def otlp_fields(kind: Any) -> dict[int, tuple[object, ...]]:
    """What decides about the bytes of the fields that OTLP has too, by number."""
    described = DescriptorProto()
    kind.DESCRIPTOR.CopyToProto(described)
    return {
        field.number: (
            field.name,
            field.type,
            field.label,
            COUNTERPARTS.get(field.type_name.lstrip("."), field.type_name.lstrip(".")),
            described.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else None,
        )
        for field in described.field
        if field.number < OWN_FIELDS_FROM
    }


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=lambda kind: kind.DESCRIPTOR.name)
def test_fields_have_the_numbers_and_types_of_otlp(ours: type, theirs: type) -> None:
    known = otlp_fields(theirs)
    for number, field in otlp_fields(ours).items():
        assert field == known[number]


def test_the_first_sixteen_fields_of_a_span_are_all_those_of_otlp() -> None:
    assert set(otlp_fields(v1.Span)) == set(otlp_fields(trace_pb2.Span)) == set(range(1, 17))
    assert min(field.number for field in v1.Span.DESCRIPTOR.fields if field.number > 16) == OWN_FIELDS_FROM


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(v1.SpanKind, trace_pb2.Span.SpanKind), (v1.SpanStatusCode, trace_pb2.Status.StatusCode)],
    ids=["kind", "status code"],
)
def test_enums_have_the_numbers_of_otlp(ours: Any, theirs: Any) -> None:
    assert ours.values() == theirs.values()


def full_span() -> trace_pb2.Span:
    """A span that uses every field of OTLP."""
    values = common_pb2.AnyValue
    nested = values(
        kvlist_value=common_pb2.KeyValueList(
            values=[
                common_pb2.KeyValue(key="deep", value=values(array_value=common_pb2.ArrayValue(values=[values()]))),
                common_pb2.KeyValue(key="empty text", value=values(string_value="")),
            ]
        )
    )
    attributes = [
        common_pb2.KeyValue(key="text", value=values(string_value="größe ✓")),
        common_pb2.KeyValue(key="flag", value=values(bool_value=True)),
        common_pb2.KeyValue(key="count", value=values(int_value=-(1 << 63))),
        common_pb2.KeyValue(key="ratio", value=values(double_value=float("inf"))),
        common_pb2.KeyValue(key="bytes", value=values(bytes_value=bytes(range(256)))),
        common_pb2.KeyValue(key="nested", value=nested),
        common_pb2.KeyValue(key="null", value=values()),
        common_pb2.KeyValue(key="unset"),
    ]
    return trace_pb2.Span(
        trace_id=bytes(range(16)),
        span_id=bytes(range(8)),
        trace_state="a=1,b=2",
        parent_span_id=bytes(range(8, 16)),
        name="call",
        kind=trace_pb2.Span.SPAN_KIND_CLIENT,
        start_time_unix_nano=(1 << 64) - 1,
        end_time_unix_nano=1,
        attributes=attributes,
        dropped_attributes_count=3,
        events=[
            trace_pb2.Span.Event(time_unix_nano=5, name="e", attributes=attributes[:2], dropped_attributes_count=1)
        ],
        dropped_events_count=4,
        links=[
            trace_pb2.Span.Link(
                trace_id=bytes(16),
                span_id=bytes(8),
                trace_state="c=3",
                attributes=attributes[1:3],
                dropped_attributes_count=2,
                flags=0x301,
            )
        ],
        dropped_links_count=5,
        status=trace_pb2.Status(message="broke", code=trace_pb2.Status.STATUS_CODE_ERROR),
        flags=0x101,
    )


def full_export() -> ExportTraceServiceRequest:
    """An export that uses every field of OTLP."""
    attributes = full_span().attributes
    return ExportTraceServiceRequest(
        resource_spans=[
            trace_pb2.ResourceSpans(
                resource=resource_pb2.Resource(attributes=attributes, dropped_attributes_count=6),
                scope_spans=[
                    trace_pb2.ScopeSpans(
                        scope=common_pb2.InstrumentationScope(
                            name="lib", version="1.2", attributes=attributes, dropped_attributes_count=7
                        ),
                        spans=[full_span(), trace_pb2.Span(name="bare")],
                        schema_url="https://example.org/scope",
                    ),
                    trace_pb2.ScopeSpans(),
                ],
                schema_url="https://example.org/resource",
            ),
            trace_pb2.ResourceSpans(),
        ]
    )


def test_the_full_span_uses_every_field_of_otlp() -> None:
    assert {field.number for field, _ in full_span().ListFields()} == set(range(1, 17))


def test_a_span_of_otlp_comes_back_byte_for_byte() -> None:
    data = full_span().SerializeToString()
    ours = v1.Span.FromString(data)
    assert ours.SerializeToString() == data
    assert (ours.name, ours.kind, ours.status.code) == ("call", v1.SPAN_KIND_CLIENT, v1.SPAN_STATUS_CODE_ERROR)
    assert [field for field, _ in ours.ListFields() if field.number >= OWN_FIELDS_FROM] == []


def test_an_export_of_otlp_comes_back_byte_for_byte() -> None:
    data = full_export().SerializeToString()
    assert v1.AddSpansRequest.FromString(data).SerializeToString() == data


def test_what_a_later_otlp_adds_to_a_span_is_kept() -> None:
    later = b"\xe2\x05\x03abc" + b"\xe8\x05\x2a"  # fields 92 (bytes) and 93 (varint)
    data = full_span().SerializeToString() + later
    assert v1.Span.FromString(data).SerializeToString() == data


def test_a_span_of_the_store_is_read_by_otlp_with_the_own_fields_unknown() -> None:
    own = v1.Span.FromString(full_span().SerializeToString())
    own.rollout_id, own.attempt_id, own.sequence_id = "r", "a", 7
    own.generation.prompt_token_ids.extend([1, 2, 3])
    theirs = trace_pb2.Span.FromString(own.SerializeToString())
    assert v1.Span.FromString(theirs.SerializeToString()) == own
    theirs.DiscardUnknownFields()
    assert theirs == full_span()
