"""Spans.

What OTLP knows and `Span` has no field for becomes a further field of the span: `kind` (such as `CLIENT`),
`instrumentation_scope`, `flags`, `trace_state` and the counts of what was dropped, each present only where it says
something. What `Span` knows and OTLP does not travels in the message's `extra`. So nothing is lost either way.

The record of a model call, `generation` on the wire, is a few attributes in Python; `codec.generation` names them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeGuard

from agentlightning.codec.attributes import attributes_to_messages, value_from_message
from agentlightning.codec.errors import CodecError
from agentlightning.codec.generation import (
    GENERATION_ATTRIBUTES,
    MODEL,
    MODEL_VERSION,
    PROMPT_TOKEN_IDS,
    RESPONSE_LOGPROBS,
    RESPONSE_TOKEN_IDS,
    generation_to_message,
)
from agentlightning.codec.models import build, set_slot
from agentlightning.codec.payload import object_from_payload, to_payload
from agentlightning.codec.trace_state import trace_state_from_text, trace_state_to_text
from agentlightning.types import Event, Link, OtelResource, Span, SpanContext, TraceStatus
from agentlightning.types.tracer import NANOS, seconds_to_nanos
from lightning_store import v1

DETAILS = "agentlightning.span"
"""The key in `extra` under which travels what OTLP has no place for in a span's declared fields."""

_KINDS = {name.removeprefix("SPAN_KIND_"): number for name, number in v1.SpanKind.items() if number}
_KIND_NAMES = {number: name for name, number in _KINDS.items()}
_STATUS_CODES = {
    "UNSET": v1.SPAN_STATUS_CODE_UNSPECIFIED,
    "OK": v1.SPAN_STATUS_CODE_OK,
    "ERROR": v1.SPAN_STATUS_CODE_ERROR,
}
_STATUS_NAMES = {number: name for name, number in _STATUS_CODES.items()}
_DROPPED = "dropped_attributes_count"
_DROPPED_OF_SPAN = frozenset({_DROPPED, "dropped_events_count", "dropped_links_count"})
_SCOPE_TYPES = {"name": str, "version": str, "attributes": dict, _DROPPED: int, "schema_url": str}

# Bits 8 and 9 of the flags: it is known where the other span is, and it is in another process.
_REMOTE = 0x300

# Shared by all decoded spans. Pydantic only ever adds names of fields to them, and those are all there.
_SPAN_FIELDS = set(Span.model_fields)
_STATUS_FIELDS = set(TraceStatus.model_fields)
_CONTEXT_FIELDS = set(SpanContext.model_fields)
_RESOURCE_FIELDS = set(OtelResource.model_fields)


def spans_from_messages(groups: Iterable[v1.ResourceSpans]) -> list[Span]:
    """Decodes spans, in their order.

    Raises:
        CodecError: A status or a kind is of a newer contract, or what a user attached is not JSON.
    """
    spans: list[Span] = []
    for group in groups:
        resource = OtelResource(
            attributes={pair.key: value_from_message(pair.value) for pair in group.resource.attributes},
            schema_url=group.schema_url,
        )
        if group.resource.dropped_attributes_count:
            _extra(resource)[_DROPPED] = group.resource.dropped_attributes_count
        for scope_spans in group.scope_spans:
            scope = _scope_from_message(scope_spans)
            spans.extend([_span_from_message(message, resource, scope) for message in scope_spans.spans])
    return spans


def add_spans_requests(spans: Iterable[Span], max_bytes: int) -> Iterator[tuple[v1.AddSpansRequest, int]]:
    """Encodes spans into as few requests as their size allows.

    Args:
        spans: The spans. Neighbours of the same resource and scope share one group.
        max_bytes: About the most that one request may hold. A larger span gets a request to itself.

    Yields:
        A request, and the number of spans in it. The order of the spans is kept.

    Raises:
        TypeError: A further field of a span is nothing that JSON can carry; the message names it.
        ValueError: An id is not hex, or a value does not fit; the message names it.
    """
    request = v1.AddSpansRequest()
    size = count = 0
    group: tuple[str, ...] | None = None
    target = v1.ScopeSpans()
    for span in spans:
        resource = span.resource
        scope = _scope_of(span)
        # By their text, because 1 and True are equal and not the same.
        span_group = (repr(resource.attributes), resource.schema_url, repr(resource.__pydantic_extra__), repr(scope))
        if span_group != group:
            group = span_group
            target = _add_group(request, resource, scope)
        message = target.spans.add()
        _span_to_message(span, message, scope is not None)
        span_size = message.ByteSize()
        if count and size + span_size > max_bytes:
            full, full_count = request, count
            request = v1.AddSpansRequest()
            size = count = 0
            first = _add_group(request, resource, scope)
            first.spans.append(message)
            del target.spans[-1]
            target = first
            yield full, full_count
        size += span_size
        count += 1
    if count:
        yield request, count


def _span_from_message(message: v1.Span, resource: OtelResource, scope: dict[str, Any] | None) -> Span:
    # One long run on purpose: queries return thousands of spans, and helpers would double what each one costs.
    has = message.HasField
    trace_id = message.trace_id.hex()
    span_id = message.span_id.hex()
    parent_id = message.parent_span_id.hex() or None

    attributes: dict[str, Any] = {}
    for pair in message.attributes:
        value = pair.value
        # Unset fields are empty or zero: the commonest kinds are told without asking which one is set.
        attributes[pair.key] = value.string_value or value.int_value or value.double_value or value_from_message(value)
    if has("generation"):
        generation = message.generation
        token_ids = generation.prompt_token_ids[:]
        if token_ids:
            attributes[PROMPT_TOKEN_IDS] = token_ids
        token_ids = generation.response_token_ids[:]
        if token_ids:
            attributes[RESPONSE_TOKEN_IDS] = token_ids
        logprobs = generation.response_logprobs[:]
        if logprobs:
            attributes[RESPONSE_LOGPROBS] = logprobs
        if generation.model:
            attributes[MODEL] = generation.model
        if generation.model_version:
            attributes[MODEL_VERSION] = generation.model_version

    extra: dict[str, Any] = {}
    exact_start = exact_end = None
    start_time = end_time = None
    nanos = message.start_time_unix_nano
    if nanos:
        start_time = nanos / NANOS
        if seconds_to_nanos(start_time) != nanos:
            exact_start = nanos
    nanos = message.end_time_unix_nano
    if nanos:
        end_time = nanos / NANOS
        if seconds_to_nanos(end_time) != nanos:
            exact_end = nanos
    trace_state: dict[str, str] = {}
    if message.trace_state:
        trace_state, raw = trace_state_from_text(message.trace_state)
        if raw is not None:
            extra["trace_state"] = raw
    flags = message.flags
    remote_parent = parent_id is not None and flags & _REMOTE == _REMOTE
    if flags and flags != (_REMOTE if remote_parent else 0):
        extra["flags"] = flags
    kind = message.kind
    if kind:
        if kind not in _KIND_NAMES:
            raise CodecError(f"span kind has the value {kind}, which this release does not know")
        extra["kind"] = _KIND_NAMES[kind]
    if message.dropped_attributes_count:
        extra[_DROPPED] = message.dropped_attributes_count
    if message.dropped_events_count:
        extra["dropped_events_count"] = message.dropped_events_count
    if message.dropped_links_count:
        extra["dropped_links_count"] = message.dropped_links_count
    if scope is not None:
        extra["instrumentation_scope"] = scope.copy()

    status_code = "UNSET"
    description = None
    if has("status"):
        code = message.status.code
        if code not in _STATUS_NAMES:
            raise CodecError(f"span status has the value {code}, which this release does not know")
        status_code = _STATUS_NAMES[code]
        description = message.status.message or None
    status = TraceStatus.__new__(TraceStatus)
    set_slot(status, "__dict__", {"status_code": status_code, "description": description})
    set_slot(status, "__pydantic_fields_set__", _STATUS_FIELDS)
    set_slot(status, "__pydantic_extra__", {})
    set_slot(status, "__pydantic_private__", None)

    context = SpanContext.__new__(SpanContext)
    set_slot(
        context,
        "__dict__",
        {"trace_id": trace_id, "span_id": span_id, "is_remote": False, "trace_state": trace_state},
    )
    set_slot(context, "__pydantic_fields_set__", _CONTEXT_FIELDS)
    set_slot(context, "__pydantic_extra__", {})
    set_slot(context, "__pydantic_private__", None)

    parent = None
    if parent_id is not None:
        parent = SpanContext.__new__(SpanContext)
        set_slot(
            parent,
            "__dict__",
            {"trace_id": trace_id, "span_id": parent_id, "is_remote": remote_parent, "trace_state": {}},
        )
        set_slot(parent, "__pydantic_fields_set__", _CONTEXT_FIELDS)
        set_slot(parent, "__pydantic_extra__", {})
        set_slot(parent, "__pydantic_private__", None)

    own_resource = OtelResource.__new__(OtelResource)
    set_slot(
        own_resource,
        "__dict__",
        {"attributes": resource.attributes.copy(), "schema_url": resource.schema_url},
    )
    set_slot(own_resource, "__pydantic_fields_set__", _RESOURCE_FIELDS)
    set_slot(own_resource, "__pydantic_extra__", _extra(resource).copy())
    set_slot(own_resource, "__pydantic_private__", None)

    span = Span.__new__(Span)
    set_slot(
        span,
        "__dict__",
        {
            "rollout_id": message.rollout_id,
            "attempt_id": message.attempt_id,
            "sequence_id": message.sequence_id,
            "trace_id": trace_id,
            "span_id": span_id,
            "parent_id": parent_id,
            "name": message.name,
            "status": status,
            "attributes": attributes,
            "events": [_event_from_message(event) for event in events] if (events := message.events) else [],
            "links": [_link_from_message(link) for link in links] if (links := message.links) else [],
            "start_time": start_time,
            "end_time": end_time,
            "context": context,
            "parent": parent,
            "resource": own_resource,
        },
    )
    set_slot(span, "__pydantic_fields_set__", _SPAN_FIELDS)
    set_slot(span, "__pydantic_extra__", extra)
    set_slot(span, "__pydantic_private__", {"_exact_start": exact_start, "_exact_end": exact_end})
    if has("extra"):
        _apply_users_extra(span, message)
    return span


def _span_to_message(span: Span, message: v1.Span, scope_is_sent: bool) -> None:
    what = f"span {span.name!r}"
    try:
        message.trace_id = _id_bytes(span.trace_id, "trace_id")
        message.span_id = _id_bytes(span.span_id, "span_id")
        if span.parent_id:
            message.parent_span_id = _id_bytes(span.parent_id, "parent_id")
        message.name = span.name
        message.rollout_id = span.rollout_id
        message.attempt_id = span.attempt_id
        message.sequence_id = span.sequence_id
        message.start_time_unix_nano = span.start_time_unix_nano or 0
        message.end_time_unix_nano = span.end_time_unix_nano or 0
        status = span.status
        if status.status_code != "UNSET":
            message.status.code = _STATUS_CODES[status.status_code]
        if status.description:
            message.status.message = status.description
    except (KeyError, OverflowError, ValueError) as error:
        raise ValueError(f"{what} cannot be stored: {error}") from error

    attributes = span.attributes
    generation_keys = GENERATION_ATTRIBUTES.intersection(attributes)
    if generation_keys:
        attributes = attributes.copy()
        for key in generation_keys:
            if generation_to_message(key, attributes[key], message):
                del attributes[key]
    attributes_to_messages(attributes, message.attributes.add, f"{what}: attributes")
    details: dict[str, Any] = {}
    if span.events:
        _events_to_messages(span.events, message, what, details)
    if span.links:
        _links_to_messages(span.links, message, what, details)

    parent = span.parent
    flags = _REMOTE if parent is not None and parent.is_remote else 0
    users: dict[str, Any] = {}
    for key, value in _extra(span).items():
        if key == "kind" and isinstance(value, str) and value in _KINDS:
            message.kind = _KINDS[value]
        elif key == "instrumentation_scope" and scope_is_sent:
            pass
        elif key == "flags" and _is_count(value) and value != flags:
            flags = value
        elif key in _DROPPED_OF_SPAN and _is_count(value):
            setattr(message, key, value)
        elif key == "trace_state" and _is_raw_trace_state_of(value, span.context):
            message.trace_state = value
        else:
            users[key] = value
    message.flags = flags
    _contexts_to_message(span, message, details)
    if _extra(status):
        details["status"] = _extra(status)
    resource_extra = {
        key: value for key, value in _extra(span.resource).items() if key != _DROPPED or not _is_count(value)
    }
    if resource_extra:
        details["resource"] = resource_extra
    if details:
        users[DETAILS] = details
    if users:
        message.extra.CopyFrom(to_payload(users, what))


def _contexts_to_message(span: Span, message: v1.Span, details: dict[str, Any]) -> None:
    trace_id = span.trace_id
    context = span.context
    if context is None:
        details["context"] = None
    else:
        if context.trace_state and not message.trace_state:
            message.trace_state = trace_state_to_text(context.trace_state)
        if (
            context.trace_id != trace_id
            or context.span_id != span.span_id
            or context.is_remote
            or _extra(context)
            or trace_state_from_text(message.trace_state)[0] != context.trace_state
        ):
            details["context"] = context.model_dump()
    parent = span.parent
    if parent is None:
        if span.parent_id:
            details["parent"] = None
    elif (
        parent.trace_id != trace_id
        or parent.span_id != span.parent_id
        or parent.is_remote != (message.flags & _REMOTE == _REMOTE)
        or parent.trace_state
        or _extra(parent)
    ):
        details["parent"] = parent.model_dump()


def _apply_users_extra(span: Span, message: v1.Span) -> None:
    users = object_from_payload(message.extra, "span.extra") or {}
    details = users.pop(DETAILS, None)
    extra = _extra(span)
    extra.update(users)
    if details is None:
        return
    try:
        if "context" in details:
            span.context = details["context"] and SpanContext.model_validate(details["context"])
        if "parent" in details:
            span.parent = details["parent"] and SpanContext.model_validate(details["parent"])
            implied = _REMOTE if span.parent is not None and span.parent.is_remote else 0
            if "flags" not in users:
                extra.pop("flags", None)
                if message.flags != implied:
                    extra["flags"] = message.flags
        _extra(span.status).update(details.get("status", {}))
        _extra(span.resource).update(details.get("resource", {}))
        for index, fields in details.get("events", {}).items():
            _extra(span.events[int(index)]).update(fields)
        for index, fields in details.get("links", {}).items():
            _extra(span.links[int(index)]).update(fields)
        for index, fields in details.get("link_contexts", {}).items():
            span.links[int(index)].context = SpanContext.model_validate(fields)
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise CodecError(f"span.extra[{DETAILS!r}] cannot be read: {error}") from error


def _event_from_message(message: v1.SpanEvent) -> Event:
    nanos = message.time_unix_nano
    seconds = nanos / NANOS if nanos else None
    dropped = message.dropped_attributes_count
    return build(
        Event,
        {
            "name": message.name,
            "attributes": {pair.key: value_from_message(pair.value) for pair in message.attributes},
            "timestamp": seconds,
        },
        {_DROPPED: dropped} if dropped else {},
        {"_exact_time": nanos if seconds is not None and seconds_to_nanos(seconds) != nanos else None},
    )


def _events_to_messages(events: list[Event], message: v1.Span, what: str, details: dict[str, Any]) -> None:
    for index, event in enumerate(events):
        target = message.events.add()
        try:
            target.name = event.name
            target.time_unix_nano = event.timestamp_unix_nano or 0
        except (OverflowError, ValueError) as error:
            raise ValueError(f"{what}: events[{index}] cannot be stored: {error}") from error
        attributes_to_messages(event.attributes, target.attributes.add, f"{what}: events[{index}].attributes")
        rest = {}
        for key, value in _extra(event).items():
            if key == _DROPPED and _is_count(value):
                target.dropped_attributes_count = value
            else:
                rest[key] = value
        if rest:
            details.setdefault("events", {})[str(index)] = rest


def _link_from_message(message: v1.SpanLink) -> Link:
    trace_state, raw = trace_state_from_text(message.trace_state)
    remote = message.flags & _REMOTE == _REMOTE
    extra: dict[str, Any] = {}
    if raw is not None:
        extra["trace_state"] = raw
    if message.flags != (_REMOTE if remote else 0):
        extra["flags"] = message.flags
    if message.dropped_attributes_count:
        extra[_DROPPED] = message.dropped_attributes_count
    context = {
        "trace_id": message.trace_id.hex(),
        "span_id": message.span_id.hex(),
        "is_remote": remote,
        "trace_state": trace_state,
    }
    attributes = {pair.key: value_from_message(pair.value) for pair in message.attributes}
    return build(Link, {"context": build(SpanContext, context, {}), "attributes": attributes or None}, extra)


def _links_to_messages(links: list[Link], message: v1.Span, what: str, details: dict[str, Any]) -> None:
    for index, link in enumerate(links):
        target = message.links.add()
        context = link.context
        path = f"{what}: links[{index}]"
        target.trace_id = _id_bytes(context.trace_id, f"{path}.context.trace_id")
        target.span_id = _id_bytes(context.span_id, f"{path}.context.span_id")
        if link.attributes:
            attributes_to_messages(link.attributes, target.attributes.add, f"{path}.attributes")
        flags = _REMOTE if context.is_remote else 0
        rest = {}
        for key, value in _extra(link).items():
            if key == _DROPPED and _is_count(value):
                target.dropped_attributes_count = value
            elif key == "flags" and _is_count(value) and value != flags:
                flags = value
            elif key == "trace_state" and _is_raw_trace_state_of(value, context):
                target.trace_state = value
            else:
                rest[key] = value
        target.flags = flags
        if context.trace_state and not target.trace_state:
            target.trace_state = trace_state_to_text(context.trace_state)
        if rest:
            details.setdefault("links", {})[str(index)] = rest
        if (
            _extra(context)
            or context.is_remote != (flags & _REMOTE == _REMOTE)
            or trace_state_from_text(target.trace_state)[0] != context.trace_state
        ):
            details.setdefault("link_contexts", {})[str(index)] = context.model_dump()


def _scope_from_message(message: v1.ScopeSpans) -> dict[str, Any] | None:
    fields: dict[str, Any] = {}
    if message.HasField("scope"):
        scope = message.scope
        fields["name"] = scope.name
        if scope.version:
            fields["version"] = scope.version
        if scope.attributes:
            fields["attributes"] = {pair.key: value_from_message(pair.value) for pair in scope.attributes}
        if scope.dropped_attributes_count:
            fields[_DROPPED] = scope.dropped_attributes_count
    if message.schema_url:
        fields["schema_url"] = message.schema_url
    return fields or None


def _scope_of(span: Span) -> dict[str, Any] | None:
    """Returns the scope of a span if it has one in the form that `_scope_from_message` gives."""
    scope = _extra(span).get("instrumentation_scope")
    if not isinstance(scope, dict) or not scope:
        return None
    for key, value in scope.items():
        if type(value) is not _SCOPE_TYPES.get(key) or not (value or key == "name"):
            return None
        if key == _DROPPED and not _is_count(value):
            return None
    return scope if "name" in scope or scope.keys() == {"schema_url"} else None


def _add_group(request: v1.AddSpansRequest, resource: OtelResource, scope: dict[str, Any] | None) -> v1.ScopeSpans:
    group = request.resource_spans.add()
    target = group.scope_spans.add()
    try:
        if resource.schema_url:
            group.schema_url = resource.schema_url
        dropped = _extra(resource).get(_DROPPED)
        if _is_count(dropped):
            group.resource.dropped_attributes_count = dropped
        if scope is not None:
            if "name" in scope:
                target.scope.name = scope["name"]
                target.scope.version = scope.get("version", "")
                target.scope.dropped_attributes_count = scope.get(_DROPPED, 0)
            target.schema_url = scope.get("schema_url", "")
    except ValueError as error:
        raise ValueError(f"resource or scope of a span cannot be stored: {error}") from error
    if resource.attributes:
        attributes_to_messages(resource.attributes, group.resource.attributes.add, "resource.attributes")
    if scope is not None and "attributes" in scope:
        attributes_to_messages(scope["attributes"], target.scope.attributes.add, "instrumentation_scope.attributes")
    return target


def _id_bytes(text: str, field: str) -> bytes:
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    # fromhex() passes over blanks.
    if len(data) * 2 != len(text):
        raise ValueError(f"{field} must be hex digits, not {text!r}")
    return data


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 < value < 1 << 32


def _is_raw_trace_state_of(value: Any, context: SpanContext | None) -> bool:
    if not isinstance(value, str) or context is None:
        return False
    trace_state, raw = trace_state_from_text(value)
    return raw is not None and trace_state == context.trace_state


def _extra(model: Event | Link | OtelResource | Span | SpanContext | TraceStatus) -> dict[str, Any]:
    extra = model.__pydantic_extra__
    assert extra is not None  # these classes allow further fields
    return extra
