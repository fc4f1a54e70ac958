"""OTLP over HTTP: what exporters send lands where it belongs, by the same rule as over gRPC."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf import json_format
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import StatusCode
from otlp_messages import ATTEMPT, ROLLOUT, SEQUENCE, attributes, group, span
from rest_calls import Answer, Rest, request

from agentlightning.rest.limits import MAX_BODY_BYTES
from agentlightning.store.face import StoreFace

PROTOBUF = "application/x-protobuf"
JSON = "application/json"


@dataclass
class Target:
    """A rollout of its own for each test, and what it takes to fill and read it."""

    rest: Rest
    rollout_id: str
    attempt_id: str

    @property
    def place(self) -> list[Any]:
        """The attributes that name it."""
        return attributes(**{ROLLOUT: self.rollout_id, ATTEMPT: self.attempt_id})

    async def send(self, body: bytes, content_type: str = PROTOBUF, **headers: str) -> Answer:
        """Send a body as it is."""
        return await asyncio.to_thread(request, self.rest.url + "/v1/traces", body, content_type, **headers)

    async def export(self, *groups: ResourceSpans, **headers: str) -> ExportTraceServiceResponse:
        """Send spans as Protocol Buffers."""
        answer = await self.send(ExportTraceServiceRequest(resource_spans=groups).SerializeToString(), **headers)
        assert (answer.status, answer.headers["content-type"]) == (200, PROTOBUF)
        return ExportTraceServiceResponse.FromString(answer.body)

    async def names(self) -> list[str]:
        """The names of the spans that are stored."""
        return [one.name for one in await self.rest.store.query_spans(self.rollout_id)]


@pytest_asyncio.fixture
async def target(local_rest: Rest) -> AsyncIterator[Target]:
    started = await local_rest.store.start_rollout("x")
    yield Target(local_rest, started.rollout_id, started.attempt.attempt_id)


def as_json(*groups: ResourceSpans) -> dict[str, Any]:
    """Spans in the JSON of OTLP: as Protocol Buffers have it, but for ids in hex and enums as numbers."""
    export = json_format.MessageToDict(ExportTraceServiceRequest(resource_spans=groups), use_integers_for_enums=True)
    for message, fields in zip(groups, export["resourceSpans"], strict=True):
        for sent, written in zip(message.scope_spans[0].spans, fields["scopeSpans"][0]["spans"], strict=True):
            written["traceId"], written["spanId"] = sent.trace_id.hex(), sent.span_id.hex().upper()
            if sent.parent_span_id:
                written["parentSpanId"] = sent.parent_span_id.hex()
            for link, written_link in zip(sent.links, written.get("links", []), strict=True):
                written_link["traceId"], written_link["spanId"] = link.trace_id.hex(), link.span_id.hex()
    return export


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
async def test_the_exporter_of_opentelemetry_itself_works(target: Target, compression: Compression) -> None:
    def work() -> None:
        exporter = OTLPSpanExporter(endpoint=target.rest.url + "/v1/traces", compression=compression, timeout=10)
        provider = TracerProvider(
            resource=Resource({ROLLOUT: target.rollout_id, ATTEMPT: target.attempt_id}), shutdown_on_exit=False
        )
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        tracer = provider.get_tracer("my.library", "2.0")
        with (
            tracer.start_as_current_span("outer", attributes={"tokens": [1, 2, 3]}),
            tracer.start_as_current_span("inner", attributes={SEQUENCE: 7}) as inner,
        ):
            inner.set_status(StatusCode.ERROR, "broke")
        provider.shutdown()

    await asyncio.to_thread(work)
    inner, outer = await target.rest.store.query_spans(target.rollout_id)
    assert (inner.name, inner.sequence_id, inner.status.description) == ("inner", 7, "broke")
    assert (outer.name, outer.attributes["tokens"], outer.sequence_id) == ("outer", [1, 2, 3], 8)
    assert inner.parent_id == outer.span_id
    assert outer.resource.attributes[ROLLOUT] == target.rollout_id


async def test_one_lost_rollout_holds_up_no_other_span(target: Target) -> None:
    nowhere = attributes(**{ROLLOUT: "ro-unknown", ATTEMPT: "at-unknown"})
    response = await target.export(
        group([span("lost")], nowhere), group([span("good")], target.place), group([span("homeless")])
    )
    assert await target.names() == ["good"]
    assert response.partial_success.rejected_spans == 2
    assert "Rollout ro-unknown not found" in response.partial_success.error_message
    assert "span 'homeless' does not say" in response.partial_success.error_message


async def test_json_says_the_same_as_protocol_buffers(target: Target) -> None:
    whole = span(
        "whole",
        parent_span_id=b"\x01" * 8,
        kind=Span.SPAN_KIND_CLIENT,
        attributes=attributes(model="m", tokens=-3, big=2**60),
        events=[Span.Event(time_unix_nano=7, name="token", attributes=attributes(index=0))],
        links=[Span.Link(trace_id=b"\xff" * 16, span_id=b"\xfe" * 8)],
    )
    other = await target.rest.store.start_rollout("the same in JSON")
    assert not (await target.export(group([whole], target.place))).HasField("partial_success")
    place = attributes(**{ROLLOUT: other.rollout_id, ATTEMPT: other.attempt.attempt_id})
    answer = await target.send(json.dumps(as_json(group([whole], place))).encode(), f"{JSON}; charset=utf-8")
    assert (answer.status, answer.json) == (200, {})

    (by_json,) = await target.rest.store.query_spans(other.rollout_id)
    (by_bytes,) = await target.rest.store.query_spans(target.rollout_id)
    own = {"rollout_id", "attempt_id", "resource"}
    assert by_json.model_dump(exclude=own) == by_bytes.model_dump(exclude=own)
    assert (by_json.trace_id, by_json.span_id) == (whole.trace_id.hex(), whole.span_id.hex())


async def test_json_tells_what_was_not_stored(target: Target) -> None:
    sent = as_json(group([span("good"), span("short"), span("none"), span("in base64")], target.place))
    good, short, none, base64 = sent["resourceSpans"][0]["scopeSpans"][0]["spans"]
    short["traceId"] = "abc"
    none["spanId"] = ""
    base64["traceId"], base64["spanId"] = "AQEBAQEBAQEBAQEBAQEBAQ==", "AQEBAQEBAQE="
    good["somethingNew"] = {"a": 1}
    answer = await target.send(json.dumps(sent).encode(), JSON)
    assert answer.status == 200
    assert answer.json["partialSuccess"]["rejectedSpans"] == "2"
    assert "span 'short' has no valid trace_id" in answer.json["partialSuccess"]["errorMessage"]
    assert await target.names() == ["good", "in base64"]


async def test_the_headers_name_the_place_where_nothing_else_does(target: Target) -> None:
    headers = {"agl-rollout-id": target.rollout_id, "agl-attempt-id": target.attempt_id}
    assert not (await target.export(group([span("of the call")]), **headers)).HasField("partial_success")
    assert await target.names() == ["of the call"]
    lost = await target.export(group([span("a")]), **headers, **{"agl-experiment": "elsewhere"})
    assert "Experiment elsewhere not found" in lost.partial_success.error_message
    other = await StoreFace(target.rest.opened.api, experiment="elsewhere").start_rollout("x")
    place = attributes(**{ROLLOUT: other.rollout_id, ATTEMPT: other.attempt.attempt_id})
    assert not (await target.export(group([span("b")], place), **{"agl-experiment": "elsewhere"})).HasField(
        "partial_success"
    )


async def test_an_exporter_cannot_forge_what_is_the_stores_own(target: Target) -> None:
    sent = as_json(group([span("forged")], target.place))
    forged = sent["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    forged |= {"rolloutId": "ro-x", "sequenceId": "99", "generation": {"responseTokenIds": [1]}}
    assert (await target.send(json.dumps(sent).encode(), JSON)).json == {}
    (stored,) = await target.rest.store.query_spans(target.rollout_id)
    assert (stored.sequence_id, stored.attributes) == (1, {})


async def test_an_export_that_is_repeated_stores_nothing_twice(target: Target) -> None:
    sent = group([span("a"), span("b")], target.place)
    for _ in range(3):
        assert not (await target.export(sent)).HasField("partial_success")
    assert await target.names() == ["a", "b"]


async def test_an_empty_export_is_fine(target: Target) -> None:
    assert (await target.send(b"")).status == 200
    assert (await target.send(b"{}", JSON)).json == {}


@cache
def bomb() -> bytes:
    """A kilobyte for each megabyte that it unpacks to, which is more than may be sent."""
    packing = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    return b"".join(packing.compress(bytes(1 << 20)) for _ in range((MAX_BODY_BYTES >> 20) + 1)) + packing.flush()


@pytest.mark.parametrize(
    ("body", "content_type", "encoding", "status", "said"),
    [
        (b"\xff\xff", PROTOBUF, "identity", 400, "no AddSpansRequest"),
        (b"", "text/plain", "identity", 415, "text/plain"),
        (b"", PROTOBUF, "br", 415, "br"),
        (b"plain", PROTOBUF, "gzip", 400, "not gzip"),
        (gzip.compress(b"x" * 1000, mtime=0)[:-10], PROTOBUF, "gzip", 400, "whole"),
        (gzip.compress(b"", mtime=0) + b"more", PROTOBUF, "gzip", 400, "whole"),
        (bomb(), PROTOBUF, "gzip", 413, f"more than {MAX_BODY_BYTES} bytes"),
        (bomb(), JSON, "gzip", 413, f"more than {MAX_BODY_BYTES} bytes"),
    ],
    ids=lambda value: f"{len(value)} bytes" if isinstance(value, bytes) else None,
)
async def test_what_cannot_be_read_is_refused_for_good(
    target: Target, body: bytes, content_type: str, encoding: str, status: int, said: str
) -> None:
    assert len(body) < 100_000
    answer = await target.send(body, content_type, **{"Content-Encoding": encoding})
    assert answer.status == status
    assert said in (answer.json["message"] if content_type == JSON else Status.FromString(answer.body).message)
    assert await target.names() == []


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff",
        b"[1]",
        b"[" * 100_000,
        b'{"resourceSpans": 1}',
        b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"name": 1}]}]}]}',
        b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"name": "\\ud800"}]}]}]}',
        b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"kind": "\\ud800"}]}]}]}',
        b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"startTimeUnixNano": "' + b"x" * 100_000 + b'"}]}]}]}',
        b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": {}}]}]}]}',
        b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"startTimeUnixNano": -1}]}]}]}',
    ],
    ids=lambda body: body[:70].decode(errors="replace"),
)
async def test_json_that_is_no_export_is_refused_for_good(target: Target, body: bytes) -> None:
    answer = await target.send(body, JSON)
    assert (answer.status, answer.json.keys()) == (400, {"message"})
    assert answer.json["message"].startswith("The body is no export of spans: ")
    assert len(answer.body) < 2_000
