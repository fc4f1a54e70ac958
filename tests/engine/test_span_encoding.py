"""Spans are taken out of requests as they are encoded there, whatever else a request has."""

from __future__ import annotations

import random

import pytest

from agentlightning.store.engine.encoding import encoded_spans
from lightning_store import v1

# Fields that the contract does not know, one of each wire type, and a group that looks like what it is not.
_UNKNOWN = [
    b"\xa0\x06\xac\x02",  # 100: a varint of two bytes
    b"\xa1\x06" + bytes(8),
    b"\xa2\x06\x03abc",
    b"\xa5\x06" + bytes(4),
    b"\xa3\x06\x0a\x02hi\x12\x02hi\xa3\x06\xa4\x06\xa4\x06",  # a group in a group, with fields 1 and 2
]


def _field(number: int, body: bytes) -> bytes:
    size = bytearray()
    left = len(body)
    while left > 0x7F:
        size.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes([number << 3 | 2, *size, left]) + body


@pytest.mark.parametrize("seed", range(8))
def test_encoded_spans_are_those_of_the_parsed_request(seed: int) -> None:
    rng = random.Random(seed)

    def mixed(*known: bytes) -> bytes:
        parts = [*known]
        for _ in range(rng.randrange(4)):
            parts.insert(rng.randrange(len(parts) + 1), rng.choice(_UNKNOWN))
        return b"".join(parts)

    def spans() -> list[bytes]:
        return [
            _field(
                2, mixed(v1.Span(name="n" * rng.choice([0, 5, 300]), sequence_id=rng.randrange(9)).SerializeToString())
            )
            for _ in range(rng.randrange(4))
        ]

    scope = _field(1, v1.InstrumentationScope(name="scope").SerializeToString())
    groups = [_field(1, mixed(*[_field(2, mixed(scope, *spans())) for _ in range(rng.randrange(3))])) for _ in range(3)]
    request = mixed(*groups)
    parsed = v1.AddSpansRequest.FromString(request)
    wanted = [span for group in parsed.resource_spans for scoped in group.scope_spans for span in scoped.spans]
    assert [v1.Span.FromString(body) for body in encoded_spans(request)] == wanted
    assert wanted or seed
