from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans as OtlpResourceSpans
from opentelemetry.sdk.trace import TracerProvider

from agentlightning.codec.errors import CodecError
from agentlightning.codec.payload import to_payload
from agentlightning.codec.spans import DETAILS, add_spans_requests, spans_from_messages
from agentlightning.types import Event, Link, OtelResource, Span, SpanContext, TraceStatus
from lightning_store import v1

MEGABYTES = 1_000_000
NOW = 1_700_000_000_123_456_789

TEXT = st.text(max_size=8)
NAMES = st.text(min_size=1, max_size=8)
COUNTS = st.sampled_from([0, 0, 1, 2**32 - 1])
NANOS = st.sampled_from([0, 1, NOW, NOW + 1]) | st.integers(0, 2**64 - 1)
SCALARS = (
    TEXT
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.binary(max_size=4)
    | st.none()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ATTRIBUTES = st.dictionaries(TEXT, VALUES, max_size=4)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=4,
)
TOKEN_IDS = st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5)
LOGPROBS = st.lists(st.floats(width=32, allow_nan=False), max_size=5)
TRACE_STATES = st.sampled_from(["", "", "a=1", "a=1,b=2", "a=1, b=2", "a=1,a=2", "nonsense", ",", "=", "a=b=c"]) | TEXT


def pair(key: str, value: Any) -> v1.KeyValue:
    message = v1.KeyValue(key=key)
    if value is not None:
        message.value.CopyFrom(any_value(value))
    return message


def any_value(value: Any) -> v1.AnyValue:
    if value is None:
        return v1.AnyValue()
    if isinstance(value, str):
        return v1.AnyValue(string_value=value)
    if isinstance(value, bool):
        return v1.AnyValue(bool_value=value)
    if isinstance(value, int):
        return v1.AnyValue(int_value=value)
    if isinstance(value, float):
        return v1.AnyValue(double_value=value)
    if isinstance(value, bytes):
        return v1.AnyValue(bytes_value=value)
    if isinstance(value, list):
        return v1.AnyValue(array_value=v1.ArrayValue(values=[any_value(item) for item in value]))
    return v1.AnyValue(kvlist_value=v1.KeyValueList(values=[pair(key, item) for key, item in value.items()]))


def pairs(attributes: dict[str, Any]) -> list[v1.KeyValue]:
    return [pair(key, value) for key, value in attributes.items()]


@st.composite
def generations(draw: st.DrawFn) -> v1.Generation | None:
    message = v1.Generation(
        prompt_token_ids=draw(TOKEN_IDS),
        response_token_ids=draw(TOKEN_IDS),
        response_logprobs=draw(LOGPROBS),
        model=draw(TEXT),
        model_version=draw(TEXT),
    )
    return message if message.ByteSize() else None


@st.composite
def statuses(draw: st.DrawFn) -> v1.SpanStatus | None:
    message = v1.SpanStatus(code=draw(st.sampled_from([0, 1, 2])), message=draw(TEXT))  # type: ignore[arg-type]
    return message if message.ByteSize() else None


@st.composite
def span_messages(draw: st.DrawFn) -> v1.Span:
    users = draw(st.dictionaries(NAMES.filter(lambda name: name not in Span.model_fields), JSON, max_size=2))
    return v1.Span(
        trace_id=draw(st.binary(min_size=16, max_size=16) | st.just(b"")),
        span_id=draw(st.binary(min_size=8, max_size=8) | st.just(b"")),
        trace_state=draw(TRACE_STATES),
        parent_span_id=draw(st.binary(min_size=8, max_size=8) | st.just(b"")),
        name=draw(TEXT),
        kind=draw(st.integers(0, 5)),  # type: ignore[arg-type]
        start_time_unix_nano=draw(NANOS),
        end_time_unix_nano=draw(NANOS),
        attributes=pairs(draw(ATTRIBUTES)),
        dropped_attributes_count=draw(COUNTS),
        events=[
            v1.SpanEvent(
                time_unix_nano=draw(NANOS),
                name=draw(TEXT),
                attributes=pairs(draw(ATTRIBUTES)),
                dropped_attributes_count=draw(COUNTS),
            )
            for _ in range(draw(st.integers(0, 2)))
        ],
        dropped_events_count=draw(COUNTS),
        links=[
            v1.SpanLink(
                trace_id=draw(st.binary(min_size=16, max_size=16)),
                span_id=draw(st.binary(min_size=8, max_size=8)),
                trace_state=draw(TRACE_STATES),
                attributes=pairs(draw(ATTRIBUTES)),
                dropped_attributes_count=draw(COUNTS),
                flags=draw(st.sampled_from([0, 1, 0x100, 0x300, 0x301])),
            )
            for _ in range(draw(st.integers(0, 2)))
        ],
        dropped_links_count=draw(COUNTS),
        status=draw(statuses()),
        flags=draw(st.sampled_from([0, 1, 0x100, 0x200, 0x300, 0x301])),
        rollout_id=draw(TEXT),
        attempt_id=draw(TEXT),
        sequence_id=draw(st.integers(0, 2**63 - 1)),
        generation=draw(generations()),
        extra=to_payload(users, "") if users else None,
    )


@st.composite
def groups(draw: st.DrawFn) -> v1.ResourceSpans:
    resource = v1.SpanResource(attributes=pairs(draw(ATTRIBUTES)), dropped_attributes_count=draw(COUNTS))
    scope = v1.InstrumentationScope(
        name=draw(TEXT),
        version=draw(TEXT),
        attributes=pairs(draw(ATTRIBUTES)),
        dropped_attributes_count=draw(COUNTS),
    )
    return v1.ResourceSpans(
        resource=resource if resource.ByteSize() else None,
        schema_url=draw(TEXT),
        scope_spans=[
            v1.ScopeSpans(
                scope=scope if draw(st.booleans()) else None,
                schema_url=draw(TEXT),
                spans=draw(st.lists(span_messages(), min_size=1, max_size=2)),
            )
        ],
    )


def encode(spans: list[Span]) -> v1.AddSpansRequest:
    requests = list(add_spans_requests(spans, 4 * MEGABYTES))
    assert [count for _, count in requests] == ([len(spans)] if spans else [])
    return requests[0][0] if requests else v1.AddSpansRequest()


def through_the_wire(spans: list[Span]) -> list[Span]:
    request = v1.AddSpansRequest.FromString(encode(spans).SerializeToString())
    return spans_from_messages(request.resource_spans)


@settings(max_examples=120, deadline=None)
@given(groups())
def test_a_span_message_comes_back_from_python_as_it_was(group: v1.ResourceSpans) -> None:
    back = encode(spans_from_messages([group])).resource_spans
    assert len(back) == 1
    # By their bytes: protobuf finds 0.0 and -0.0 equal.
    assert back[0].SerializeToString(deterministic=True) == group.SerializeToString(deterministic=True)


@settings(max_examples=60, deadline=None)
@given(groups())
def test_what_is_read_is_a_span_like_any_other(group: v1.ResourceSpans) -> None:
    for span in spans_from_messages([group]):
        validated = Span.model_validate(span.model_dump())
        assert validated.model_dump() == span.model_dump()
        assert span.model_copy(deep=True) == span
        assert repr(span)


HEX_TRACE = st.binary(min_size=16, max_size=16).map(bytes.hex)
HEX_SPAN = st.binary(min_size=8, max_size=8).map(bytes.hex)
SECONDS = st.none() | st.floats(min_value=1_000_000_000, max_value=4_000_000_000)
FURTHER = st.dictionaries(
    st.sampled_from(["mine", "kind", "flags", "instrumentation_scope", "dropped_attributes_count", "trace_state"]),
    JSON
    | st.sampled_from(["CLIENT", "SpanKind.CLIENT", 3, 0x300, True, {"name": "lib"}, {"name": "l", "version": ""}, {}]),
    max_size=3,
)
STATES = st.dictionaries(TEXT, TEXT, max_size=2)


def contexts() -> st.SearchStrategy[SpanContext]:
    return st.builds(
        lambda trace, span, remote, state, more: SpanContext(
            trace_id=trace, span_id=span, is_remote=remote, trace_state=state, **more
        ),
        HEX_TRACE,
        HEX_SPAN,
        st.booleans(),
        STATES,
        st.dictionaries(st.just("more"), JSON),
    )


@st.composite
def python_spans(draw: st.DrawFn) -> Span:
    span = Span.from_attributes(
        attributes={},
        rollout_id=draw(TEXT),
        attempt_id=draw(TEXT),
        sequence_id=draw(st.integers(0, 2**63 - 1)),
        trace_id=draw(HEX_TRACE),
        span_id=draw(HEX_SPAN),
        parent_id=draw(st.none() | HEX_SPAN),
        start_time=draw(SECONDS),
        end_time=draw(SECONDS),
        name=draw(NAMES),
        status=TraceStatus.model_validate(
            {
                "status_code": draw(st.sampled_from(["UNSET", "OK", "ERROR"])),
                "description": draw(st.none() | NAMES),
                **draw(st.dictionaries(st.just("more"), JSON)),
            }
        ),
        resource=OtelResource.model_validate(
            {
                "attributes": draw(ATTRIBUTES),
                "schema_url": draw(TEXT),
                **draw(st.dictionaries(st.sampled_from(["more", "dropped_attributes_count"]), JSON)),
            }
        ),
    )
    span.attributes = draw(ATTRIBUTES)
    for key in ("prompt_token_ids", "response_token_ids", "response_logprobs", "agentlightning.generation.model"):
        if draw(st.booleans()):
            span.attributes[key] = draw(st.sampled_from([[1, 2], [2**31], [], [0.5], [0.1], ["a"], "m", "", 3, [None]]))
    if draw(st.booleans()):
        span.context = draw(st.none() | contexts())
    if draw(st.booleans()):
        span.parent = draw(st.none() | contexts())
    span.events = [
        Event.model_validate(
            {
                "name": draw(TEXT),
                "attributes": draw(ATTRIBUTES),
                "timestamp": draw(SECONDS),
                **draw(st.dictionaries(st.sampled_from(["more", "dropped_attributes_count"]), JSON)),
            }
        )
        for _ in range(draw(st.integers(0, 2)))
    ]
    span.links = [
        Link.model_validate(
            {
                "context": draw(contexts()),
                "attributes": draw(ATTRIBUTES) or None,
                **draw(st.dictionaries(st.sampled_from(["more", "dropped_attributes_count", "trace_state"]), JSON)),
            }
        )
        for _ in range(draw(st.integers(0, 2)))
    ]
    for key, value in draw(FURTHER).items():
        setattr(span, key, value)
    return span


@settings(max_examples=50, deadline=None)
@given(st.lists(python_spans(), max_size=3))
def test_a_span_comes_back_from_the_wire_as_it_was(spans: list[Span]) -> None:
    back = through_the_wire(spans)
    assert back == spans
    assert [
        repr(span.attributes.keys() and sorted(span.attributes.items(), key=lambda item: item[0])) for span in back
    ] == [repr(span.attributes.keys() and sorted(span.attributes.items(), key=lambda item: item[0])) for span in spans]


def make_span(**changes: Any) -> Span:
    span = Span.from_attributes(attributes={"a": "b"}, rollout_id="ro-1", attempt_id="at-1", name="n")
    return span.model_copy(update=changes)


def test_token_ids_travel_packed_and_return_as_attributes() -> None:
    attributes = {
        "first": "1",
        "prompt_token_ids": list(range(300)),
        "response_token_ids": (5, 6),
        "response_logprobs": [-0.5, -0.25],
        "agentlightning.generation.model": "m",
        "agentlightning.generation.model_version": "v7",
    }
    request = encode([make_span(attributes=attributes)])
    message = request.resource_spans[0].scope_spans[0].spans[0]
    assert [pair.key for pair in message.attributes] == ["first"]
    assert message.generation == v1.Generation(
        prompt_token_ids=range(300),
        response_token_ids=[5, 6],
        response_logprobs=[-0.5, -0.25],
        model="m",
        model_version="v7",
    )
    assert attributes["response_token_ids"] == (5, 6), "the span that was given is left alone"
    (back,) = spans_from_messages(request.resource_spans)
    assert back.attributes == {**attributes, "response_token_ids": [5, 6]}
    assert all(type(item) is int for item in back.attributes["prompt_token_ids"])  # type: ignore[union-attr]


@pytest.mark.parametrize("odd", [[], [1.5], ["1"], [2**31], [1, 2**63 - 1], "12", 7])
def test_token_ids_of_another_shape_stay_plain_attributes(odd: Any) -> None:
    request = encode([make_span(attributes={"prompt_token_ids": odd})])
    message = request.resource_spans[0].scope_spans[0].spans[0]
    assert not message.generation.prompt_token_ids
    assert spans_from_messages(request.resource_spans)[0].attributes == {"prompt_token_ids": odd}


def test_log_probabilities_that_single_precision_cannot_hold_stay_exact() -> None:
    (back,) = through_the_wire([make_span(attributes={"response_logprobs": [-0.1]})])
    assert back.attributes == {"response_logprobs": [-0.1]}
    single = struct.unpack("f", struct.pack("f", -0.1))[0]
    request = encode([make_span(attributes={"response_logprobs": [single]})])
    assert len(request.resource_spans[0].scope_spans[0].spans[0].generation.response_logprobs) == 1


def test_times_stay_exact_to_the_nanosecond() -> None:
    message = v1.Span(start_time_unix_nano=NOW, end_time_unix_nano=NOW + 1)
    message.events.add(time_unix_nano=NOW + 2)
    (span,) = spans_from_messages([v1.ResourceSpans(scope_spans=[v1.ScopeSpans(spans=[message])])])
    assert span.start_time == NOW / 1e9
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (NOW, NOW + 1)
    assert span.events[0].timestamp_unix_nano == NOW + 2
    span.end_time = 2.0
    sent = encode([span]).resource_spans[0].scope_spans[0].spans[0]
    assert (sent.start_time_unix_nano, sent.end_time_unix_nano) == (NOW, 2_000_000_000)


def test_a_span_of_opentelemetry_comes_back_equal() -> None:
    tracer = TracerProvider().get_tracer("lib", "1.0", "https://schema", {"k": 1})
    with tracer.start_as_current_span("outer"):
        inner = tracer.start_span("inner", attributes={"ids": (1, 2)})
        inner.add_event("e", {"x": (True,)})
        inner.end()
    span = Span.from_opentelemetry(inner, "ro-1", "at-1", 0)  # type: ignore[arg-type]
    (back,) = through_the_wire([span])
    assert back.start_time_unix_nano == inner.start_time  # type: ignore[attr-defined]
    assert back.model_dump(exclude={"attributes", "events"}) == span.model_dump(exclude={"attributes", "events"})
    assert back.attributes == {"ids": [1, 2]}
    assert back.model_extra == {
        "kind": "INTERNAL",
        "instrumentation_scope": {
            "name": "lib",
            "version": "1.0",
            "schema_url": "https://schema",
            "attributes": {"k": 1},
        },
    }


def test_an_otlp_reader_understands_what_is_sent() -> None:
    span = make_span(kind="CLIENT", instrumentation_scope={"name": "lib", "schema_url": "u"})
    group = OtlpResourceSpans.FromString(encode([span]).resource_spans[0].SerializeToString())
    assert group.scope_spans[0].scope.name == "lib"
    assert group.scope_spans[0].schema_url == "u"
    assert group.scope_spans[0].spans[0].kind == 3
    assert group.scope_spans[0].spans[0].trace_id.hex() == span.trace_id


def test_a_trace_state_that_headers_cannot_hold_is_kept() -> None:
    span = make_span()
    assert span.context is not None
    span.context.trace_state = {"a": "1,b=2", "": ""}
    assert through_the_wire([span]) == [span]


def test_neighbours_of_one_resource_and_scope_share_a_group() -> None:
    one = OtelResource(attributes={"n": 1}, schema_url="")
    same = OtelResource(attributes={"n": 1}, schema_url="")
    other = OtelResource(attributes={"n": True}, schema_url="")
    spans = [make_span(resource=resource) for resource in (one, same, other, one)]
    request = encode(spans)
    assert [len(group.scope_spans[0].spans) for group in request.resource_spans] == [2, 1, 1]
    assert spans_from_messages(request.resource_spans) == spans


def test_spans_that_are_read_share_nothing_that_can_be_changed() -> None:
    spans = [make_span(resource=OtelResource(attributes={"n": 1}, schema_url="")) for _ in range(2)]
    first, second = through_the_wire(spans)
    first.resource.attributes["n"] = 2
    first.status.status_code = "ERROR"
    assert second == spans[1]


@pytest.mark.parametrize(
    ("size", "limit", "expected"),
    [(1000, 2500, [2, 2, 1]), (1000, 10, [1, 1, 1, 1, 1]), (1000, MEGABYTES, [5])],
)
def test_batches_keep_to_their_size_and_order(size: int, limit: int, expected: list[int]) -> None:
    spans = [make_span(name=f"{index}", attributes={"x": "y" * size}) for index in range(5)]
    requests = list(add_spans_requests(spans, limit))
    assert [count for _, count in requests] == expected
    assert [span for request, _ in requests for span in spans_from_messages(request.resource_spans)] == spans
    for request, count in requests:
        assert count == 1 or request.ByteSize() <= limit + 100


def test_no_spans_are_no_request() -> None:
    assert list(add_spans_requests([], MEGABYTES)) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trace_id": "trace-1"}, "trace_id must be hex digits, not 'trace-1'"),
        ({"span_id": "abc"}, "span_id must be hex digits"),
        ({"span_id": "ab cd"}, "span_id must be hex digits"),
        ({"parent_id": "zz"}, "parent_id must be hex digits"),
        ({"start_time": -1.0}, "cannot be stored"),
        ({"end_time": float("nan")}, "cannot be stored"),
        ({"sequence_id": 2**63}, "cannot be stored"),
        ({"name": "\ud800"}, "cannot be stored"),
        ({"attributes": {"ok": 1, "big": 2**63}}, r"attributes\['big'\] cannot be stored"),
        ({"attributes": {"bad": object()}}, r"attributes\['bad'\] cannot be stored"),
        ({"attributes": {"half": "\ud800"}}, r"attributes\['half'\] cannot be stored"),
        ({"attributes": {"deep": [{"x": {1}}]}}, r"attributes\['deep'\] cannot be stored"),
        ({"events": [Event(name="e", attributes={"x": 2**70})]}, r"events\[0\]\.attributes\['x'\]"),
        (
            {"links": [Link(context=SpanContext(trace_id="q", span_id="", is_remote=False, trace_state={}))]},
            r"links\[0\]\.context\.trace_id must be hex digits",
        ),
        ({"resource": OtelResource(attributes={"x": 2**70}, schema_url="")}, r"resource\.attributes\['x'\]"),
        ({"status": TraceStatus.model_construct(status_code="FINE")}, "FINE"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], message: str) -> None:
    span = make_span()
    for key, value in changes.items():
        setattr(span, key, value)
    with pytest.raises(ValueError, match=message):
        encode([span])


def test_a_further_field_that_json_cannot_carry_is_named() -> None:
    with pytest.raises(TypeError, match=r"span 'n'\.mine is a set"):
        encode([make_span(mine={1})])


@pytest.mark.parametrize(
    "message",
    [
        v1.Span(kind=99),  # type: ignore[arg-type]
        v1.Span(status=v1.SpanStatus(code=99)),  # type: ignore[arg-type]
        v1.Span(extra=v1.Payload(content_type="text/plain")),
        v1.Span(extra=to_payload([1], "")),
        v1.Span(extra=to_payload({DETAILS: 5}, "")),
        v1.Span(extra=to_payload({DETAILS: {"context": {"trace_id": 1}}}, "")),
        v1.Span(extra=to_payload({DETAILS: {"events": {"0": {}}}}, "")),
        v1.Span(extra=to_payload({DETAILS: {"status": [1]}}, "")),
    ],
)
def test_a_span_of_a_newer_contract_raises_the_codec_error(message: v1.Span) -> None:
    with pytest.raises(CodecError):
        spans_from_messages([v1.ResourceSpans(scope_spans=[v1.ScopeSpans(spans=[message])])])
