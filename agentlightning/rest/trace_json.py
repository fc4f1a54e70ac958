"""Spans as clients post them in `trace`: dictionaries."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from agentlightning.codec.spans import add_spans_requests
from agentlightning.types import Attempt, Span


def span_of_trace(entry: Mapping[str, Any], attempt: Attempt) -> Span | None:
    """Returns one entry of a trace as a span of the attempt; None if it is in no form that is known.

    Args:
        entry: A span as OpenTelemetry's `ReadableSpan.to_json` or as `Span.model_dump` writes it.
        attempt: The attempt that it belongs to.
    """
    owner = {"rollout_id": attempt.rollout_id, "attempt_id": attempt.attempt_id, "sequence_id": 0}
    try:
        span = Span.model_validate({**(entry if "trace_id" in entry else _fields_of_otel(entry)), **owner})
        if (len(span.trace_id), len(span.span_id), len(span.parent_id or "")) not in ((32, 16, 16), (32, 16, 0)):
            return None
        for _ in add_spans_requests([span], 0):  # whether it can be sent shows when it is encoded
            pass
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        return None
    return span


def _fields_of_otel(entry: Mapping[str, Any]) -> dict[str, Any]:
    context = _fields_of_context(entry["context"])
    parent_id = entry.get("parent_id")
    status = entry.get("status") or {}
    resource = entry.get("resource") or {}
    return {
        "trace_id": context["trace_id"],
        "span_id": context["span_id"],
        "parent_id": parent_id and parent_id.removeprefix("0x"),
        "name": entry["name"],
        "kind": str(entry.get("kind", "INTERNAL")).removeprefix("SpanKind."),
        "status": {"status_code": status.get("status_code", "UNSET"), "description": status.get("description")},
        "attributes": entry.get("attributes") or {},
        "events": [
            {"name": event["name"], "attributes": event.get("attributes") or {}, "timestamp": _time(event["timestamp"])}
            for event in entry.get("events") or ()
        ],
        "links": [
            {"context": _fields_of_context(link["context"]), "attributes": link.get("attributes")}
            for link in entry.get("links") or ()
        ],
        "start_time": _time(entry.get("start_time")),
        "end_time": _time(entry.get("end_time")),
        "context": context,
        "parent": None,
        "resource": {
            "attributes": resource.get("attributes") or {},
            "schema_url": resource.get("schema_url") or "",
        },
    }


def _fields_of_context(context: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "trace_id": context["trace_id"].removeprefix("0x"),
        "span_id": context["span_id"].removeprefix("0x"),
        "is_remote": False,
        "trace_state": {},
    }


def _time(text: str | None) -> float | None:
    # Python 3.10 does not know the Z.
    return None if text is None else datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
