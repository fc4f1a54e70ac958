"""Spans in the encoding of the wire: taken out of requests, and put into answers, without encoding them anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby

from agentlightning.store.storage.rows import SpanRow
from lightning_store import v1

_VARINT, _FIXED_64, _DELIMITED, _GROUP, _GROUP_END, _FIXED_32 = range(6)  # the wire types of fields


def encoded_spans(request: bytes) -> Iterator[bytes]:
    """Yield the spans of an `AddSpansRequest` in their order, each as it is encoded there.

    Args:
        request: The request; it has been parsed before.
    """
    for group in _fields(request, v1.AddSpansRequest.RESOURCE_SPANS_FIELD_NUMBER, 0, len(request)):
        for scoped in _fields(request, v1.ResourceSpans.SCOPE_SPANS_FIELD_NUMBER, *group):
            for start, end in _fields(request, v1.ScopeSpans.SPANS_FIELD_NUMBER, *scoped):
                yield request[start:end]


def _fields(data: bytes, field: int, position: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield where the values of a field lie in a message that lies from `position` to `end`."""
    groups = 0
    while position < end:
        tag, position = _read_varint(data, position)
        wire_type = tag & 7
        if wire_type == _DELIMITED:
            size, position = _read_varint(data, position)
            if tag >> 3 == field and not groups:
                yield position, position + size
            position += size
        elif wire_type == _VARINT:
            _, position = _read_varint(data, position)
        elif wire_type in (_GROUP, _GROUP_END):  # only in what this contract does not know
            groups += 1 if wire_type == _GROUP else -1
        else:
            position += 8 if wire_type == _FIXED_64 else 4


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Return a number, and the position after it."""
    number = shift = 0
    while True:
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
        shift += 7


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
