"""Exports of spans, as OpenTelemetry's exporters make them."""

from __future__ import annotations

import secrets
from typing import Any

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

ROLLOUT = "agentlightning.rollout_id"
ATTEMPT = "agentlightning.attempt_id"
SEQUENCE = "agentlightning.span_sequence_id"


def attributes(**values: Any) -> list[KeyValue]:
    """Attributes of text and numbers."""
    return [
        KeyValue(key=key, value=AnyValue(**{"int_value" if isinstance(value, int) else "string_value": value}))
        for key, value in values.items()
    ]


def span(name: str, **fields: Any) -> Span:
    """A span as an SDK sends it."""
    return Span(
        **{
            "name": name,
            "trace_id": secrets.token_bytes(16),
            "span_id": secrets.token_bytes(8),
            "start_time_unix_nano": 1_700_000_000_000_000_000,
            "end_time_unix_nano": 1_700_000_001_000_000_000,
            **fields,
        }
    )


def group(spans: list[Span], place: list[KeyValue] = [], **fields: Any) -> ResourceSpans:  # noqa: B006
    """Spans of one resource."""
    return ResourceSpans(resource=Resource(attributes=place), scope_spans=[ScopeSpans(spans=spans, **fields)])
