"""OTLP over gRPC: spans of any OpenTelemetry exporter land where they belong, and bad ones take no others with them."""

from __future__ import annotations

import gc
import logging
import secrets
import tracemalloc
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from calls import HERE, flat
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span, Status
from opentelemetry.sdk.resources import Resource as SdkResource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import StatusCode
from otlp_messages import ATTEMPT, ROLLOUT, SEQUENCE, attributes, group, span
from store_process import StoreProcess

from agentlightning.store.engine.engine import Engine
from agentlightning.store.server.otlp import ingest
from lightning_store import v1
from lightning_store.v1 import rollout_service_pb2_grpc, span_service_pb2_grpc


class Target:
    """A rollout of its own for each test, and what it takes to fill and read it."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.rollouts = rollout_service_pb2_grpc.RolloutServiceStub(channel)
        self.spans = span_service_pb2_grpc.SpanServiceStub(channel)
        self.trace = TraceServiceStub(channel)
        self.rollout_id, self.attempt_id = self.start()

    def start(self) -> tuple[str, str]:
        """Start a rollout."""
        rollout_id = f"ro-{secrets.token_hex(4)}"
        started = self.rollouts.StartRollout(v1.StartRolloutRequest(rollout=v1.NewRollout(rollout_id=rollout_id)))
        return rollout_id, started.rollout.latest_attempt.attempt_id

    @property
    def place(self) -> list[KeyValue]:
        """The attributes that name it."""
        return attributes(**{ROLLOUT: self.rollout_id, ATTEMPT: self.attempt_id})

    def export(self, *groups: ResourceSpans, **settings: Any) -> ExportTraceServiceResponse:
        """Send spans."""
        return self.trace.Export(ExportTraceServiceRequest(resource_spans=groups), timeout=10, **settings)

    def listed(self, rollout_id: str | None = None) -> list[v1.Span]:
        """The spans that are stored."""
        answer = self.spans.ListSpans(v1.ListSpansRequest(rollout_id=rollout_id or self.rollout_id))
        return flat(answer.resource_spans)

    def names(self, rollout_id: str | None = None) -> list[str]:
        """The names of the spans that are stored."""
        return [span.name for span in self.listed(rollout_id)]


@pytest.fixture
def target(channel: grpc.Channel) -> Target:
    return Target(channel)


def assert_all_taken(response: ExportTraceServiceResponse) -> None:
    """Check that a response tells of no fault at all."""
    assert not response.HasField("partial_success")


def test_spans_go_where_their_resource_says(target: Target) -> None:
    assert_all_taken(target.export(group([span("a"), span("b")], target.place)))
    assert target.names() == ["a", "b"]
    assert [one.sequence_id for one in target.listed()] == [1, 2]
    assert {(one.rollout_id, one.attempt_id) for one in target.listed()} == {(target.rollout_id, target.attempt_id)}
    rollout = target.rollouts.GetRollout(v1.GetRolloutRequest(rollout_id=target.rollout_id)).rollout
    assert rollout.status == v1.ROLLOUT_STATUS_RUNNING


def test_what_a_span_says_wins_over_its_resource(target: Target) -> None:
    rollout_id, attempt_id = target.start()
    elsewhere = attributes(**{ROLLOUT: rollout_id, ATTEMPT: attempt_id, SEQUENCE: 40})
    assert_all_taken(target.export(group([span("here"), span("there", attributes=elsewhere)], target.place)))
    assert target.names() == ["here"]
    assert target.names(rollout_id) == ["there"]
    assert target.listed(rollout_id)[0].sequence_id == 40


def test_the_call_names_the_place_where_nothing_else_does(target: Target) -> None:
    rollout_id, attempt_id = target.start()
    metadata = [("agl-rollout-id", rollout_id), ("agl-attempt-id", attempt_id)]
    assert_all_taken(
        target.export(group([span("of the call")]), group([span("of the resource")], target.place), metadata=metadata)
    )
    assert target.names(rollout_id) == ["of the call"]
    assert target.names() == ["of the resource"]


def test_bad_spans_are_counted_and_named_and_take_no_others_with_them(target: Target) -> None:
    bad = [
        span("no trace", trace_id=b""),
        span("zero trace", trace_id=bytes(16)),
        span("short trace", trace_id=b"1234"),
        span("zero id", span_id=bytes(8)),
        span("long id", span_id=bytes(range(1, 17))),
        span("bad parent", parent_span_id=b"123"),
        span("bad number", attributes=attributes(**{SEQUENCE: "first"})),
        span("odd digit", attributes=attributes(**{SEQUENCE: "²"})),
        span("negative", attributes=attributes(**{SEQUENCE: -1})),
        span("endless", attributes=attributes(**{SEQUENCE: "9" * 5000})),
    ]
    mixed = [span("first"), *bad, span("last")]
    response = target.export(group(mixed, target.place))
    assert target.names() == ["first", "last"]
    assert response.partial_success.rejected_spans == len(bad)
    for one in bad:
        assert repr(one.name) in response.partial_success.error_message


def test_unknown_rollouts_and_attempts_are_named(target: Target) -> None:
    nowhere = attributes(**{ROLLOUT: "ro-unknown", ATTEMPT: "at-unknown"})
    no_attempt = attributes(**{ROLLOUT: target.rollout_id, ATTEMPT: "at-unknown"})
    response = target.export(
        group([span("lost"), span("lost too")], nowhere),
        group([span("good")], target.place),
        group([span("homeless")]),
        group([span("no attempt")], no_attempt),
        group([span("half a place")], attributes(**{ROLLOUT: target.rollout_id})),
    )
    assert target.names() == ["good"]
    said = response.partial_success
    assert said.rejected_spans == 5
    assert "Rollout ro-unknown not found" in said.error_message
    assert f"Attempt at-unknown not found for rollout {target.rollout_id}" in said.error_message
    assert "span 'homeless' does not say" in said.error_message
    assert "span 'half a place' does not say" in said.error_message


def test_a_flood_of_faults_has_a_short_message(target: Target) -> None:
    response = target.export(group([span(f"s{number}" * 100) for number in range(2000)]))
    assert response.partial_success.rejected_spans == 2000
    assert len(response.partial_success.error_message) < 10_000
    assert "1990 more" in response.partial_success.error_message


def test_an_exporter_cannot_forge_what_is_the_stores_own(target: Target) -> None:
    rollout_id, attempt_id = target.start()
    forged = v1.Span.FromString(span("forged").SerializeToString())
    forged.rollout_id, forged.attempt_id, forged.sequence_id = rollout_id, attempt_id, 99
    forged.generation.response_token_ids.extend([1, 2, 3])
    forged.generation.model_version = "forged"
    forged.extra.content_type = "application/json"
    forged.extra.data = b'{"reward": 1}'
    sent = group([Span.FromString(forged.SerializeToString())], target.place)
    assert_all_taken(target.export(sent))
    assert target.names(rollout_id) == []
    (stored,) = target.listed()
    assert stored.sequence_id == 1
    assert not stored.HasField("generation")
    assert not stored.HasField("extra")


def test_fields_that_otlp_does_not_have_are_dropped(target: Target) -> None:
    unknown = b"\xe2\x05\x03abc\xe2\xfa\x30\x03def"  # fields 92 and 99980
    sent = Span.FromString(span("later").SerializeToString() + unknown)
    assert_all_taken(target.export(group([sent], target.place)))
    (stored,) = target.listed()
    assert stored.name == "later"
    assert b"abc" not in stored.SerializeToString()
    assert b"def" not in stored.SerializeToString()


def test_a_span_comes_back_as_it_was_sent(target: Target) -> None:
    sent = span(
        "whole",
        trace_state="a=b",
        parent_span_id=secrets.token_bytes(8),
        kind=Span.SPAN_KIND_CLIENT,
        attributes=attributes(model="m", tokens=-3, empty=""),
        dropped_attributes_count=1,
        events=[Span.Event(time_unix_nano=7, name="token", attributes=attributes(index=0))],
        dropped_events_count=2,
        links=[Span.Link(trace_id=secrets.token_bytes(16), span_id=secrets.token_bytes(8), flags=1)],
        dropped_links_count=3,
        status=Status(code=Status.STATUS_CODE_ERROR, message="broke"),
        flags=0x101,
    )
    scope = InstrumentationScope(name="lib", version="1", attributes=attributes(of="scope"))
    whole = group([sent], target.place, scope=scope, schema_url="https://example.org/scope")
    whole.schema_url = "https://example.org/resource"
    assert_all_taken(target.export(whole))
    answer = target.spans.ListSpans(v1.ListSpansRequest(rollout_id=target.rollout_id))
    for own in flat(answer.resource_spans):
        for field in ("rollout_id", "attempt_id", "sequence_id"):
            own.ClearField(field)  # type: ignore[arg-type]
    assert v1.AddSpansRequest(resource_spans=answer.resource_spans).SerializeToString() == (
        ExportTraceServiceRequest(resource_spans=[whole]).SerializeToString()
    )


def test_numbers_are_those_of_the_exporter_where_it_gives_some(target: Target) -> None:
    numbered = [
        span("third", attributes=attributes(**{SEQUENCE: 30})),
        span("second", attributes=attributes(**{SEQUENCE: "20"})),
        span("next"),
    ]
    assert_all_taken(target.export(group(numbered, target.place)))
    assert [(one.name, one.sequence_id) for one in target.listed()] == [("second", 20), ("third", 30), ("next", 31)]


def test_an_export_that_is_repeated_stores_nothing_twice(target: Target) -> None:
    sent = group([span("a"), span("b")], target.place)
    for _ in range(3):
        assert_all_taken(target.export(sent))
    assert target.names() == ["a", "b"]


def test_a_compressed_export_is_read(target: Target) -> None:
    sent = group([span("x" * 10_000)], target.place)
    assert_all_taken(target.export(sent, compression=grpc.Compression.Gzip))
    assert target.names() == ["x" * 10_000]


def test_an_empty_export_is_fine(target: Target) -> None:
    assert_all_taken(target.export())
    assert_all_taken(target.export(ResourceSpans(), group([], target.place)))


def test_spans_of_an_experiment_stay_in_it(target: Target) -> None:
    response = target.export(group([span("a")], target.place), metadata=[("agl-experiment", "default")])
    assert_all_taken(response)
    response = target.export(group([span("b")], target.place), metadata=[("agl-experiment", "otlp-nowhere")])
    assert response.partial_success.rejected_spans == 1
    assert "Experiment otlp-nowhere not found" in response.partial_success.error_message
    assert target.names() == ["a"]


@pytest.fixture
def provider(server: StoreProcess, target: Target) -> Iterator[TracerProvider]:
    """The OpenTelemetry SDK with its own exporter."""
    made = TracerProvider(
        resource=SdkResource({ROLLOUT: target.rollout_id, ATTEMPT: target.attempt_id}), shutdown_on_exit=False
    )
    exporter = OTLPSpanExporter(endpoint=f"http://{server.address}", insecure=True, compression=grpc.Compression.Gzip)
    made.add_span_processor(BatchSpanProcessor(exporter))
    yield made
    made.shutdown()


def test_the_exporter_of_opentelemetry_itself_works(provider: TracerProvider, target: Target) -> None:
    tracer = provider.get_tracer("my.library", "2.0")
    with tracer.start_as_current_span("outer") as outer:
        outer.set_attribute("tokens", [1, 2, 3])
        with tracer.start_as_current_span("inner", attributes={SEQUENCE: 7}) as inner:
            inner.set_status(StatusCode.ERROR, "broke")
            inner.add_event("token", {"index": 1})
    assert provider.force_flush(10_000)
    stored = {one.name: one for one in target.listed()}
    assert set(stored) == {"outer", "inner"}
    assert stored["inner"].sequence_id == 7
    assert stored["inner"].parent_span_id == stored["outer"].span_id
    assert stored["inner"].status.code == v1.SPAN_STATUS_CODE_ERROR
    assert stored["inner"].events[0].name == "token"
    tokens = stored["outer"].attributes[0].value.array_value.values
    assert [token.int_value for token in tokens] == [1, 2, 3]


def test_spans_of_many_unknown_rollouts_do_not_hold_the_server_up(target: Target) -> None:
    places = [attributes(**{ROLLOUT: f"ro-{number}", ATTEMPT: "a"}) for number in range(3000)]
    lost = [span("lost", attributes=place) for place in places]
    response = target.export(group(lost), group([span("good")], target.place))
    assert response.partial_success.rejected_spans == 3000
    assert target.names() == ["good"]


async def test_nothing_is_kept_of_an_export_that_is_refused(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """Goes wrong when what exporters made up piles up in the server."""
    caplog.set_level(logging.ERROR)  # pytest keeps what is logged
    tracemalloc.start()
    try:
        for number in range(20):
            place = attributes(**{ROLLOUT: f"{number}{'x' * 200_000}", ATTEMPT: "at-1"})
            request = ExportTraceServiceRequest(resource_spans=[group([span("lost")], place)])
            answer = await ingest(engine, HERE, request.SerializeToString(), {})
            assert answer.partial_success.rejected_spans == 1
        del request, answer
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1_000_000
