"""Stored spans in the encoding of the wire: put together from the bytes that are stored, without parsing them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby

from agentlightning.store.storage.rows import SpanRow
from lightning_store import v1

_DELIMITED = 2  # the wire type of messages


def resource_spans(field: int, rows: Iterable[SpanRow], source_of: Callable[[int], bytes]) -> list[bytes]:
    """Return a repeated field of `ResourceSpans` that holds spans in their order, neighbours of one source together.

    Args:
        field: Number of the field.
        rows: The spans.
        source_of: Returns the `ResourceSpans` of a source, which has one `ScopeSpans` and no span.

    Returns:
        Bytes to be joined, once and with what comes before them: copies of megabytes are what costs most here.
    """
    sources: dict[int, tuple[bytes, bytes]] = {}
    parts: list[bytes] = []
    for source, run in groupby(rows, lambda row: row.source):
        if source not in sources:
            sources[source] = _apart(source_of(source))
        resource, scope = sources[source]
        spans = [_span(row) for row in run]
        size = len(scope) + sum(map(len, spans))
        scope_head = _head(v1.ResourceSpans.SCOPE_SPANS_FIELD_NUMBER, size)
        parts += (_head(field, len(resource) + len(scope_head) + size), resource, scope_head, scope, *spans)
    return parts


def _apart(source: bytes) -> tuple[bytes, bytes]:
    """Return the fields of a source beside its `ScopeSpans`, and the fields of that."""
    message = v1.ResourceSpans.FromString(source)
    scope = message.scope_spans[0].SerializeToString()
    message.ClearField("scope_spans")
    return message.SerializeToString(), scope


def _span(row: SpanRow) -> bytes:
    # Of a field that comes twice, the last counts.
    number = _SEQUENCE_ID + _varint(row.sequence_id)
    return _head(v1.ScopeSpans.SPANS_FIELD_NUMBER, len(row.body) + len(number)) + row.body + number


def _head(field: int, size: int) -> bytes:
    return _varint(field << 3 | _DELIMITED) + _varint(size)


def _varint(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


_SEQUENCE_ID = _varint(v1.Span.SEQUENCE_ID_FIELD_NUMBER << 3)
