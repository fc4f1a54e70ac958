"""The OTLP trace service: spans of any OpenTelemetry exporter, on the port of the store."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Literal

import grpc
from google.protobuf.unknown_fields import UnknownFieldSet
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from agentlightning.store.api import CallContext, StoreApi
from agentlightning.store.engine.encoding import encoded_spans
from agentlightning.store.engine.spans import MOST_SEQUENCE_ID
from agentlightning.store.errors import InvalidArgument, NotFound
from agentlightning.store.server.admission import Admission
from agentlightning.store.server.servicers import Context, abort, call_context, parse
from lightning_store import v1

logger = logging.getLogger(__name__)

SERVICE: str = trace_service_pb2.DESCRIPTOR.services_by_name["TraceService"].full_name
"""Full name of the service."""

ROLLOUT_ATTRIBUTE = "agentlightning.rollout_id"
ATTEMPT_ATTRIBUTE = "agentlightning.attempt_id"
SEQUENCE_ATTRIBUTE = "agentlightning.span_sequence_id"

ROLLOUT_KEY = "agl-rollout-id"
"""Call metadata that names the rollout of spans which do not."""
ATTEMPT_KEY = "agl-attempt-id"
"""Call metadata that names the attempt of spans which do not."""

_PLACE = b"agentlightning."  # with what all attributes begin that say where a span belongs

_OWN_FIELDS: tuple[Literal["rollout_id", "attempt_id", "sequence_id", "generation", "extra"], ...] = (
    "rollout_id",
    "attempt_id",
    "sequence_id",
    "generation",
    "extra",
)
_MOST_NAMED = 10
_MOST_DIGITS = 19


def handler(api: StoreApi, admission: Admission) -> grpc.GenericRpcHandler[Any, Any]:
    """Return the handler of the service. An export has the bytes of an AddSpansRequest, and is parsed as one."""

    async def export(data: bytes, context: Context) -> Any:
        try:
            with admission.taken(len(data)):
                return await ingest(api, call_context(context), data, dict(context.invocation_metadata() or ()))
        except Exception as error:  # noqa: BLE001  the one place where errors leave for the wire
            await abort(context, error)

    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            "Export": grpc.unary_unary_rpc_method_handler(
                export,
                response_serializer=trace_service_pb2.ExportTraceServiceResponse.SerializeToString,
            )
        },
    )


async def ingest(
    api: StoreApi, context: CallContext, data: bytes, metadata: dict[str, Any]
) -> trace_service_pb2.ExportTraceServiceResponse:
    """Store the spans of an export that can be stored, and tell which cannot.

    Args:
        api: Where to store them.
        context: The call's.
        data: The export, encoded; what it says in the store's own fields is not believed.
        metadata: The call's metadata.

    Raises:
        InvalidArgument: The bytes are no export.
    """
    request = parse(v1.AddSpansRequest, data)
    faults, bodies = _assign_all(request, data, metadata)
    if bodies:
        add_encoded = getattr(api, "add_encoded_spans", None)
        try:
            if add_encoded is None:
                await api.add_spans(context, request)
            else:
                await add_encoded(context, request, bodies)
        except (NotFound, InvalidArgument):  # some span is at fault; the others must not suffer
            faults += await _add_apart(api, context, request)
    response = trace_service_pb2.ExportTraceServiceResponse()
    if faults:
        response.partial_success.rejected_spans = len(faults)
        response.partial_success.error_message = _summary(faults)
        # Most exporters pass over what the answer says.
        logger.warning("%d spans of an export are not stored: %s", len(faults), response.partial_success.error_message)
    return response


def _assign_all(request: v1.AddSpansRequest, data: bytes, metadata: dict[str, Any]) -> tuple[list[str], list[bytes]]:
    """Give all spans their places in the store, and take out those that have none.

    Args:
        request: The spans.
        data: The same, encoded.
        metadata: The call's.

    Returns:
        Why those that were taken out have no place, and the encoded spans that are left.
    """
    faults: list[str] = []
    bodies: list[bytes] = []
    encoded = encoded_spans(data)
    placed = cache(_place)  # for this export alone: what an exporter says may be long, and is not checked yet
    for resource in request.resource_spans:
        defaults = {
            ROLLOUT_ATTRIBUTE: _text(metadata.get(ROLLOUT_KEY)),
            ATTEMPT_ATTRIBUTE: _text(metadata.get(ATTEMPT_KEY)),
            **_named(resource.resource.attributes),
        }
        for scoped in resource.scope_spans:
            refused = []
            for position, span in enumerate(scoped.spans):
                body = _clean(span, next(encoded))
                fault = _assign(span, {**defaults, **_named(span.attributes)} if _PLACE in body else defaults)
                if fault is None:
                    bodies.append(body + placed(span.rollout_id, span.attempt_id))
                else:
                    faults.append(fault)
                    refused.append(position)
            for position in reversed(refused):
                del scoped.spans[position]
    return faults, bodies


async def _add_apart(api: StoreApi, context: CallContext, request: v1.AddSpansRequest) -> list[str]:
    """Store the spans of each attempt by themselves, and return the faults of those that cannot be stored."""
    apart: dict[tuple[str, str], v1.AddSpansRequest] = {}
    for resource in request.resource_spans:
        for scoped in resource.scope_spans:
            here: dict[tuple[str, str], v1.ScopeSpans] = {}
            for span in scoped.spans:
                place = (span.rollout_id, span.attempt_id)
                if place not in here:
                    here[place] = _like(apart.setdefault(place, v1.AddSpansRequest()), resource, scoped)
                here[place].spans.append(span)
    faults = []
    for (rollout_id, attempt_id), group in apart.items():
        try:
            await api.add_spans(context, group)
        except (NotFound, InvalidArgument) as error:
            count = sum(len(scoped.spans) for resource in group.resource_spans for scoped in resource.scope_spans)
            faults += [f"rollout {rollout_id}, attempt {attempt_id}: {error.message}"] * count
    return faults


def _like(request: v1.AddSpansRequest, resource: v1.ResourceSpans, scoped: v1.ScopeSpans) -> v1.ScopeSpans:
    """Return an empty group of the same resource and scope inside a request."""
    group = request.resource_spans.add(schema_url=resource.schema_url)
    if resource.HasField("resource"):
        group.resource.CopyFrom(resource.resource)
    inner = group.scope_spans.add(schema_url=scoped.schema_url)
    if scoped.HasField("scope"):
        inner.scope.CopyFrom(scoped.scope)
    return inner


def _clean(span: v1.Span, encoded: bytes) -> bytes:
    """Take out of a span what an exporter could forge, and return it encoded, which few have to be for that."""
    if (
        span.rollout_id
        or span.attempt_id
        or span.sequence_id
        or span.HasField("generation")
        or span.HasField("extra")
        or len(UnknownFieldSet(span))
    ):
        for field in _OWN_FIELDS:
            span.ClearField(field)
        span.DiscardUnknownFields()
        return span.SerializeToString()
    return encoded


def _place(rollout_id: str, attempt_id: str) -> bytes:
    """Return the fields that say where a span belongs, to be put behind the others of its encoding."""
    return v1.Span(rollout_id=rollout_id, attempt_id=attempt_id).SerializeToString()


def _assign(span: v1.Span, place: dict[str, Any]) -> str | None:
    """Give a span its place in the store, or return why it has none."""
    if len(span.trace_id) != 16 or len(span.span_id) != 8 or not any(span.trace_id) or not any(span.span_id):
        return f"span {span.name!r} has no valid trace_id and span_id"
    if span.parent_span_id and len(span.parent_span_id) != 8:
        return f"span {span.name!r} has a parent_span_id of {len(span.parent_span_id)} bytes, not 8"
    rollout_id, attempt_id = place[ROLLOUT_ATTRIBUTE], place[ATTEMPT_ATTRIBUTE]
    if not rollout_id or not attempt_id:
        return f"span {span.name!r} does not say {ROLLOUT_ATTRIBUTE} and {ATTEMPT_ATTRIBUTE}"
    span.rollout_id, span.attempt_id = str(rollout_id), str(attempt_id)
    number = str(place.get(SEQUENCE_ATTRIBUTE, 0))
    if not number.isdecimal() or len(number) > _MOST_DIGITS or int(number) > MOST_SEQUENCE_ID:
        return f"span {span.name!r} has the {SEQUENCE_ATTRIBUTE} {number[:40]!r}, which is no number above zero"
    span.sequence_id = int(number)
    return None


def _named(attributes: Iterable[v1.KeyValue]) -> dict[str, Any]:
    """Return those of the attributes that say where a span belongs."""
    found: dict[str, Any] = {}
    for attribute in attributes:
        if attribute.key in (ROLLOUT_ATTRIBUTE, ATTEMPT_ATTRIBUTE, SEQUENCE_ATTRIBUTE):
            kind = attribute.value.WhichOneof("value")
            found[attribute.key] = getattr(attribute.value, kind) if kind else ""
    return found


def _text(value: str | bytes | None) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value or ""


def _summary(faults: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(faults))
    more = f"; and {len(distinct) - _MOST_NAMED} more" if len(distinct) > _MOST_NAMED else ""
    return "; ".join(distinct[:_MOST_NAMED]) + more
