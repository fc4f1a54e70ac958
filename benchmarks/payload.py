"""The spans that every row sends: one model call of 500 token ids, as span objects and as an OTLP request."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Sequence
from typing import Any

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans
from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status as OtlpStatus

from agentlightning.types import Span

PROMPT_IDS = 250
RESPONSE_IDS = 250
SPAN_NAME = "openai.chat.completion"

_rng = random.Random(20)
_WORDS = ["the", "agent", "reads", "one", "record", "and", "answers", "with", "strict", "json", "fields"]


def _text(length: int) -> str:
    return " ".join(_rng.choice(_WORDS) for _ in range(length))[:length]


LLM_ATTRIBUTES: dict[str, Any] = {
    "gen_ai.operation.name": "chat",
    "gen_ai.system": "vllm",
    "gen_ai.request.model": "Qwen/Qwen2.5-1.5B-Instruct",
    "gen_ai.response.model": "Qwen/Qwen2.5-1.5B-Instruct",
    "gen_ai.request.temperature": 0.7,
    "gen_ai.request.max_tokens": 512,
    "gen_ai.usage.prompt_tokens": PROMPT_IDS,
    "gen_ai.usage.completion_tokens": RESPONSE_IDS,
    "gen_ai.response.finish_reason": "stop",
    "gen_ai.prompt.0.role": "user",
    "gen_ai.prompt.0.content": _text(280),
    "gen_ai.completion.0.role": "assistant",
    "gen_ai.completion.0.content": _text(280),
    "prompt_token_ids": [_rng.randrange(150_000) for _ in range(PROMPT_IDS)],
    "response_token_ids": [_rng.randrange(150_000) for _ in range(RESPONSE_IDS)],
}
"""Attributes of one LLM span, under the names that the token ids have in the reference release."""

TOKEN_SUM = sum(LLM_ATTRIBUTES["prompt_token_ids"]) + sum(LLM_ATTRIBUTES["response_token_ids"])

# Ids differ between the processes of a run and between runs on one server, or spans would count as duplicates.
_ids = itertools.count(int.from_bytes(os.urandom(4), "big") << 32 | 1)


class SpanBatch:
    """Span objects that are built once and given new ids before each send, so that a row times the store and not
    the construction of its own input."""

    def __init__(self, size: int) -> None:
        trace_id = os.urandom(16).hex()
        self.spans: list[Span] = [
            Span.from_attributes(
                attributes={
                    key: list(value) if isinstance(value, list) else value for key, value in LLM_ATTRIBUTES.items()
                },
                rollout_id="unset",
                attempt_id="unset",
                sequence_id=index + 1,
                name=SPAN_NAME,
                trace_id=trace_id,
                start_time=1_700_000_000.25,
                end_time=1_700_000_001.5,
            )
            for index in range(size)
        ]

    def stamped(self, rollout_id: str, attempt_id: str, first_sequence_id: int) -> Sequence[Span]:
        """The same spans as new ones of the given attempt, numbered from `first_sequence_id`."""
        for offset, span in enumerate(self.spans):
            span.rollout_id = rollout_id
            span.attempt_id = attempt_id
            span.sequence_id = first_sequence_id + offset
            span.span_id = f"{next(_ids):016x}"
            if span.context is not None:
                span.context.span_id = span.span_id
        return self.spans


class OtlpBatch:
    """The same spans as a prepared OTLP request body, whose ids are patched in place before each send."""

    def __init__(self, size: int) -> None:
        markers = [os.urandom(8) for _ in range(size)]
        trace_id = os.urandom(16)
        scope = ScopeSpans(
            scope=InstrumentationScope(name="benchmark"),
            spans=[
                OtlpSpan(
                    trace_id=trace_id,
                    span_id=marker,
                    name=SPAN_NAME,
                    kind=OtlpSpan.SPAN_KIND_CLIENT,
                    start_time_unix_nano=1_700_000_000_250_000_000,
                    end_time_unix_nano=1_700_000_001_500_000_000,
                    attributes=[KeyValue(key=key, value=_any_value(value)) for key, value in LLM_ATTRIBUTES.items()],
                    status=OtlpStatus(code=OtlpStatus.STATUS_CODE_OK),
                )
                for marker in markers
            ],
        )
        self._scopes = bytearray(ResourceSpans(scope_spans=[scope]).SerializeToString())
        self._offsets = [self._scopes.index(marker) for marker in markers]

    def stamped(self, rollout_id: str, attempt_id: str) -> bytes:
        """A serialized `ExportTraceServiceRequest` of new spans for the given attempt."""
        for offset in self._offsets:
            self._scopes[offset : offset + 8] = next(_ids).to_bytes(8, "big")
        resource = Resource(
            attributes=[
                KeyValue(key="agentlightning.rollout_id", value=AnyValue(string_value=rollout_id)),
                KeyValue(key="agentlightning.attempt_id", value=AnyValue(string_value=attempt_id)),
            ]
        )
        # Serialized halves of one message may be put end to end; only the outer length has to be written by hand.
        group = ResourceSpans(resource=resource).SerializeToString() + bytes(self._scopes)
        return b"\x0a" + _varint(len(group)) + group


def read_every_attribute(span: Span) -> int:
    """Touch everything a span carries; the sum of its token ids."""
    tokens = 0
    value: Any
    for key, value in span.attributes.items():
        if key.endswith("token_ids"):
            tokens += sum(value)
    _ = (span.name, span.trace_id, span.span_id, span.sequence_id, span.status.status_code)
    _ = (span.start_time, span.end_time, span.resource.attributes)
    return tokens


def _any_value(value: Any) -> AnyValue:
    if isinstance(value, str):
        return AnyValue(string_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    return AnyValue(array_value=ArrayValue(values=[_any_value(item) for item in value]))


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
