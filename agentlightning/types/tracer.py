"""Spans and their parts, in the shape of OpenTelemetry's but with times in seconds and ids in hex."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, Union, cast, overload

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, PrivateAttr
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import core_schema

if TYPE_CHECKING:
    from opentelemetry import trace as trace_api
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import Event as OtelEvent
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace.status import Status as OtelStatus

__all__ = [
    "AttributeValue",
    "Attributes",
    "Event",
    "Link",
    "OtelResource",
    "Span",
    "SpanAttributeNames",
    "SpanContext",
    "SpanCoreFields",
    "SpanLike",
    "SpanNames",
    "SpanRecordingContext",
    "StatusCode",
    "TraceState",
    "TraceStatus",
    "convert_timestamp",
]

NANOS = 1_000_000_000
"""Nanoseconds in a second."""

AttributeValue = str | bool | int | float | Sequence[str] | Sequence[bool] | Sequence[int] | Sequence[float]
"""What an attribute may hold."""

Attributes = dict[str, AttributeValue]
"""Attributes by name."""

TraceState = dict[str, str]
"""The entries of a W3C trace state, in order."""

StatusCode = Literal["UNSET", "OK", "ERROR"]
"""How the work of a span went. `UNSET` when nobody said."""

# Exporters may send bytes and numbers that JSON has no word for.
_OPEN = ConfigDict(extra="allow", ser_json_bytes="base64", ser_json_inf_nan="strings")

_SCALARS = frozenset({str, bool, int, float, bytes, type(None)})


def _is_attribute_value(value: object) -> bool:
    # OpenTelemetry's own limits are narrower, but spans of other exporters may carry all that OTLP can express.
    if type(value) in _SCALARS or isinstance(value, (str, int, float, bytes)):
        return True
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_attribute_value(item) for key, item in value.items())
    if isinstance(value, Sequence):
        # Lists of thousands of token ids are common: look at the types that occur, not at each item.
        return _SCALARS.issuperset(map(type, value)) or all(_is_attribute_value(item) for item in value)
    return False


def _check_attributes(value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"attributes must be a mapping, not {type(value).__name__}")
    for key, item in value.items():
        if not isinstance(key, str):
            raise ValueError(f"attribute names must be strings, not {key!r}")
        if not _is_attribute_value(item):
            raise ValueError(f"attribute {key!r} cannot hold a value of type {type(item).__name__}")
    return dict(value)


class _AttributesSchema:
    """How pydantic treats attributes: it looks at them once, quickly, and writes them as they are.

    Left to itself it tries eight types on each token id of a list, which takes hundreds of microseconds.
    """

    @staticmethod
    def __get_pydantic_core_schema__(source: object, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(_check_attributes)

    @staticmethod
    def __get_pydantic_json_schema__(schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "object", "additionalProperties": True}


_CheckedAttributes = Annotated[Attributes, _AttributesSchema]


@overload
def convert_timestamp(timestamp: None) -> None: ...
@overload
def convert_timestamp(timestamp: float) -> float | None: ...
def convert_timestamp(timestamp: float | None) -> float | None:
    """Brings a time to seconds since the epoch.

    Args:
        timestamp: Nanoseconds or seconds since the epoch; above 1e12 it is taken for nanoseconds. `None` and 0 mean
            that the time is not known.

    Returns:
        Seconds since the epoch, or `None` when the time is not known.
    """
    if not timestamp:
        return None
    return timestamp / NANOS if timestamp > 1e12 else timestamp


def seconds_to_nanos(seconds: float) -> int:
    """Returns `seconds` as a whole number of nanoseconds.

    A time since the epoch of our days comes back as the same float from `nanos / NANOS`.
    """
    # Whole seconds apart: one product would lose the digits that the way back needs.
    whole = int(seconds)
    return whole * NANOS + round((seconds - whole) * NANOS)


class SpanContext(BaseModel):
    """What identifies a span across processes."""

    model_config = _OPEN

    trace_id: str
    """The trace, 32 hex digits."""
    span_id: str
    """The span in its trace, 16 hex digits."""
    is_remote: bool
    """Whether the span belongs to another process."""
    trace_state: TraceState
    """The entries of its W3C trace state."""

    @classmethod
    def from_opentelemetry(cls, src: trace_api.SpanContext) -> SpanContext:
        """Converts OpenTelemetry's span context."""
        return cls(
            trace_id=f"{src.trace_id:032x}",
            span_id=f"{src.span_id:016x}",
            is_remote=src.is_remote,
            trace_state=dict(src.trace_state) if src.trace_state else {},
        )


class TraceStatus(BaseModel):
    """How the work of a span went."""

    model_config = _OPEN

    status_code: StatusCode
    """How it went."""
    description: str | None = None
    """What a person reads when it went wrong."""

    @classmethod
    def from_opentelemetry(cls, src: OtelStatus) -> TraceStatus:
        """Converts OpenTelemetry's status."""
        return cls(status_code=cast("StatusCode", src.status_code.name), description=src.description)


class Event(BaseModel):
    """Something that happened at one moment of a span."""

    model_config = _OPEN

    name: str
    """What happened."""
    attributes: _CheckedAttributes
    """More about it."""
    timestamp: float | None = None
    """When, in seconds since the epoch."""

    _exact_time: int | None = PrivateAttr(default=None)

    @property
    def timestamp_unix_nano(self) -> int | None:
        """When, in nanoseconds since the epoch, as exactly as the producer said it."""
        return _nanos_of(self.timestamp, self.__pydantic_private__, "_exact_time")

    @classmethod
    def from_opentelemetry(cls, src: OtelEvent) -> Event:
        """Converts OpenTelemetry's event."""
        event = cls(
            name=src.name,
            attributes=dict(src.attributes) if src.attributes else {},
            timestamp=convert_timestamp(src.timestamp),
        )
        event._exact_time = _exact_nanos(src.timestamp)
        return event


class Link(BaseModel):
    """A reference from one span to another."""

    model_config = _OPEN

    context: SpanContext
    """The other span."""
    attributes: _CheckedAttributes | None = None
    """More about the relation."""

    @classmethod
    def from_opentelemetry(cls, src: trace_api.Link) -> Link:
        """Converts OpenTelemetry's link."""
        return cls(
            context=SpanContext.from_opentelemetry(src.context),
            attributes=dict(src.attributes) if src.attributes else None,
        )


class OtelResource(BaseModel):
    """What produced a span: a service, a process."""

    model_config = _OPEN

    attributes: _CheckedAttributes
    """What is known of it."""
    schema_url: str
    """The schema of the attributes; empty when unknown."""

    @classmethod
    def from_opentelemetry(cls, src: Resource) -> OtelResource:
        """Converts OpenTelemetry's resource."""
        return cls(attributes=dict(src.attributes) if src.attributes else {}, schema_url=src.schema_url or "")


class SpanCoreFields(BaseModel):
    """A span before the store knows it: no ids, no place in a trace."""

    model_config = ConfigDict(ser_json_bytes="base64")

    name: str
    """What the work was."""
    status: TraceStatus
    """How it went."""
    attributes: _CheckedAttributes
    """More about it."""
    start_time: float | None
    """When it began, in seconds since the epoch."""
    end_time: float | None
    """When it ended, in seconds since the epoch."""


class SpanRecordingContext(Protocol):
    """A span that is still open. Whoever opened it closes it."""

    def record_exception(self, exception: BaseException) -> None:
        """Notes that `exception` was raised."""
        raise NotImplementedError

    def record_attributes(self, attributes: Attributes) -> None:
        """Adds attributes; those of the same name are replaced."""
        raise NotImplementedError

    def record_status(self, status_code: StatusCode, description: str | None = None) -> None:
        """Sets how the work went."""
        raise NotImplementedError

    def get_recorded_span(self) -> SpanCoreFields:
        """Returns what has been recorded."""
        raise NotImplementedError


class Span(BaseModel):
    """One timed piece of work of an attempt. It may carry further fields of the user's, which the store keeps.

    Of what OpenTelemetry knows beyond the fields below, `kind` (such as `CLIENT`) and `instrumentation_scope` (a
    dictionary with `name` and `version`) are such further fields, present when known.
    """

    model_config = _OPEN

    rollout_id: str
    """The rollout that it belongs to."""
    attempt_id: str
    """The attempt that it belongs to."""
    sequence_id: int
    """Its place in the rollout; 0 lets the store choose."""
    trace_id: str
    """The trace, 32 hex digits."""
    span_id: str
    """The span in its trace, 16 hex digits."""
    parent_id: str | None
    """The span that it is part of, 16 hex digits; `None` for a root."""
    name: str
    """What the work was."""
    status: TraceStatus
    """How it went."""
    attributes: _CheckedAttributes
    """More about it."""
    events: list[Event]
    """What happened in it."""
    links: list[Link]
    """Other spans that it refers to."""
    start_time: float | None
    """When it began, in seconds since the epoch."""
    end_time: float | None
    """When it ended, in seconds since the epoch."""
    context: SpanContext | None
    """What identifies it across processes."""
    parent: SpanContext | None
    """What identifies its parent across processes."""
    resource: OtelResource
    """What produced it."""

    # Nanoseconds where seconds as a float would round them; None where the float says it all.
    _exact_start: int | None = PrivateAttr(default=None)
    _exact_end: int | None = PrivateAttr(default=None)

    @property
    def start_time_unix_nano(self) -> int | None:
        """When it began, in nanoseconds since the epoch, as exactly as the producer said it."""
        return _nanos_of(self.start_time, self.__pydantic_private__, "_exact_start")

    @property
    def end_time_unix_nano(self) -> int | None:
        """When it ended, in nanoseconds since the epoch, as exactly as the producer said it."""
        return _nanos_of(self.end_time, self.__pydantic_private__, "_exact_end")

    @classmethod
    def from_opentelemetry(cls, src: ReadableSpan, rollout_id: str, attempt_id: str, sequence_id: int) -> Span:
        """Converts a finished OpenTelemetry span.

        Args:
            src: The span as OpenTelemetry's SDK recorded it.
            rollout_id: The rollout to file it under.
            attempt_id: The attempt to file it under.
            sequence_id: Its place in the rollout; 0 lets the store choose.

        Returns:
            The same span in this project's shape. Times stay exact to the nanosecond.
        """
        context = src.get_span_context()
        parent = src.parent
        extra: dict[str, Any] = {"kind": src.kind.name}
        if src.instrumentation_scope is not None:
            extra["instrumentation_scope"] = _scope_fields(src.instrumentation_scope)
        span = cls(
            rollout_id=rollout_id,
            attempt_id=attempt_id,
            sequence_id=sequence_id,
            trace_id=f"{context.trace_id if context else 0:032x}",
            span_id=f"{context.span_id if context else 0:016x}",
            parent_id=f"{parent.span_id:016x}" if parent else None,
            name=src.name,
            status=TraceStatus.from_opentelemetry(src.status),
            attributes=dict(src.attributes) if src.attributes else {},
            events=[Event.from_opentelemetry(event) for event in src.events],
            links=[Link.from_opentelemetry(link) for link in src.links],
            start_time=convert_timestamp(src.start_time),
            end_time=convert_timestamp(src.end_time),
            context=SpanContext.from_opentelemetry(context) if context else None,
            parent=SpanContext.from_opentelemetry(parent) if parent else None,
            resource=OtelResource.from_opentelemetry(src.resource),
            **extra,
        )
        span._exact_start = _exact_nanos(src.start_time)
        span._exact_end = _exact_nanos(src.end_time)
        return span

    @classmethod
    def from_attributes(
        cls,
        *,
        attributes: Attributes,
        rollout_id: str | None = None,
        attempt_id: str | None = None,
        sequence_id: int | None = None,
        name: str | None = None,
        trace_id: str | None = None,
        span_id: str | None = None,
        parent_id: str | None = None,
        start_time: float | None = None,
        end_time: float | None = None,
        resource: OtelResource | None = None,
        status: TraceStatus | None = None,
    ) -> Span:
        """Makes a span that nothing timed, to carry attributes.

        Args:
            attributes: What it carries.
            rollout_id: The rollout that it belongs to; empty when not given.
            attempt_id: The attempt that it belongs to; empty when not given.
            sequence_id: Its place in the rollout; 0 when not given, which lets the store choose.
            name: What to call it; `agentlightning.virtual` when not given.
            trace_id: The trace, 32 hex digits; a random one when not given.
            span_id: The span, 16 hex digits; a random one when not given.
            parent_id: The span that it is part of, 16 hex digits.
            start_time: When it began, in seconds since the epoch.
            end_time: When it ended, in seconds since the epoch.
            resource: What produced it; nothing in particular when not given.
            status: How it went; `OK` when not given.

        Returns:
            The span.
        """
        # From the system's source: Python's own generator repeats itself in forked children.
        trace_id = trace_id or secrets.token_hex(16)
        span_id = span_id or secrets.token_hex(8)
        return cls(
            rollout_id=rollout_id or "",
            attempt_id=attempt_id or "",
            sequence_id=sequence_id or 0,
            trace_id=trace_id,
            span_id=span_id,
            parent_id=parent_id,
            name=name or SpanNames.VIRTUAL.value,
            status=status or TraceStatus(status_code="OK"),
            attributes=attributes,
            events=[],
            links=[],
            start_time=start_time,
            end_time=end_time,
            context=SpanContext(trace_id=trace_id, span_id=span_id, is_remote=False, trace_state={}),
            parent=SpanContext(trace_id=trace_id, span_id=parent_id, is_remote=False, trace_state={})
            if parent_id
            else None,
            resource=resource or OtelResource(attributes={}, schema_url=""),
        )

    @classmethod
    def from_core_fields(
        cls,
        core: SpanCoreFields,
        *,
        rollout_id: str | None = None,
        attempt_id: str | None = None,
        sequence_id: int | None = None,
    ) -> Span:
        """Makes a whole span of its core fields, with random ids in a trace of its own.

        Args:
            core: What it carries.
            rollout_id: The rollout that it belongs to; empty when not given.
            attempt_id: The attempt that it belongs to; empty when not given.
            sequence_id: Its place in the rollout; 0 when not given, which lets the store choose.

        Returns:
            The span.
        """
        return cls.from_attributes(
            attributes=core.attributes,
            rollout_id=rollout_id,
            attempt_id=attempt_id,
            sequence_id=sequence_id,
            name=core.name,
            start_time=core.start_time,
            end_time=core.end_time,
            status=core.status,
        )


def _nanos_of(seconds: float | None, private: Mapping[str, Any] | None, name: str) -> int | None:
    if seconds is None:
        return None
    # From the private attributes as they lie: pydantic's way to them takes microseconds.
    exact: int | None = private[name] if private else None
    # The exact value counts only while nobody has set another time.
    if exact is not None and exact / NANOS == seconds:
        return exact
    return seconds_to_nanos(seconds)


def _exact_nanos(nanos: int | None) -> int | None:
    if not nanos or seconds_to_nanos(nanos / NANOS) == nanos:
        return None
    return nanos


def _scope_fields(scope: InstrumentationScope) -> dict[str, Any]:
    fields: dict[str, Any] = {"name": scope.name}
    if scope.version:
        fields["version"] = scope.version
    if scope.schema_url:
        fields["schema_url"] = scope.schema_url
    if scope.attributes:
        fields["attributes"] = dict(scope.attributes)
    return fields


class SpanNames(str, Enum):
    """Names of the spans that emitters write, and of the resource attributes that file a span."""

    REWARD = "agentlightning.reward"
    """A reward, as old releases wrote it."""
    MESSAGE = "agentlightning.message"
    """A message of the agent."""
    OBJECT = "agentlightning.object"
    """An object of the agent."""
    EXCEPTION = "agentlightning.exception"
    """An exception in the agent."""
    VIRTUAL = "agentlightning.virtual"
    """A span that nothing timed."""
    ROLLOUT_ID = "agentlightning.rollout_id"
    """Attribute: the rollout."""
    ATTEMPT_ID = "agentlightning.attempt_id"
    """Attribute: the attempt."""
    SPAN_SEQUENCE_ID = "agentlightning.span_sequence_id"
    """Attribute: the place in the rollout."""


class SpanAttributeNames(str, Enum):
    """Names of attributes that old releases wrote."""

    MESSAGE = "message"
    """The text of a message."""
    OBJECT = "object"
    """An object as JSON."""


SpanLike = Union["ReadableSpan", Span]
"""A span as OpenTelemetry's SDK recorded it, or as the store has it."""
