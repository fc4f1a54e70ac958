"""What spans say besides numbers and texts (tags, links, exceptions), and the tracers of OpenTelemetry."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from agentlightning.semconv import LightningSpanAttributes, LinkAttributes, LinkPydanticModel
from agentlightning.types import Attributes, Span, SpanLike
from agentlightning.utils.attributes import (
    check_attributes_sanity,
    filter_and_unflatten_attributes,
    filter_attributes,
    flatten_attributes,
    full_qualified_name,
    sanitize_attribute_value,
    sanitize_attributes,
    unflatten_attributes,
)

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

__all__ = [
    "check_attributes_sanity",
    "extract_links_from_attributes",
    "extract_tags_from_attributes",
    "filter_and_unflatten_attributes",
    "filter_attributes",
    "flatten_attributes",
    "format_exception_attributes",
    "full_qualified_name",
    "get_tracer",
    "get_tracer_provider",
    "make_link_attributes",
    "make_tag_attributes",
    "query_linked_spans",
    "sanitize_attribute_value",
    "sanitize_attributes",
    "unflatten_attributes",
]

logger = logging.getLogger(__name__)

S = TypeVar("S", bound=SpanLike)

_TAG = LightningSpanAttributes.TAG.value
_LINK = LightningSpanAttributes.LINK.value
_KEY = LinkAttributes.KEY_MATCH.value
_VALUE = LinkAttributes.VALUE_MATCH.value


def get_tracer_provider(inspect: bool = True) -> TracerProvider:
    """Returns the provider whose spans are recorded here: that of the active tracer, else OpenTelemetry's global one.

    Args:
        inspect: Log, at DEBUG, which one it is.

    Raises:
        RuntimeError: No tracer with a provider is active, and the process has no global one.
    """
    from opentelemetry import trace as trace_api
    from opentelemetry.sdk.trace import TracerProvider

    from agentlightning.tracer.active import get_active_tracer

    tracer = get_active_tracer()
    provider = getattr(tracer, "tracer_provider", None) or trace_api.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        raise RuntimeError("OpenTelemetry has no tracer provider here: open a trace with OtelTracer, or set one up")
    if inspect:
        logger.debug("spans go to %r of tracer %r", provider, tracer)
    return provider


def get_tracer(use_active_span_processor: bool = True) -> Tracer:
    """Returns an OpenTelemetry tracer to make spans with.

    Args:
        use_active_span_processor: Have the spans recorded. Without it only the caller sees them.

    Raises:
        RuntimeError: There is nothing to record them; see `get_tracer_provider`.
    """
    from opentelemetry.sdk.trace import TracerProvider

    provider = (
        get_tracer_provider(inspect=False) if use_active_span_processor else TracerProvider(shutdown_on_exit=False)
    )
    return provider.get_tracer("agentlightning")


def make_tag_attributes(tags: Sequence[str]) -> Attributes:
    """Returns the attributes that give a span these tags."""
    return {f"{_TAG}.{index}": tag for index, tag in enumerate(tags)}


def extract_tags_from_attributes(attributes: Mapping[str, Any]) -> list[str]:
    """Returns the tags among the attributes of a span, whether they are numbered or one list."""
    tags = attributes.get(_TAG)
    if tags is None:
        tags = filter_and_unflatten_attributes(attributes, _TAG)
    return [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, Sequence) else []


def make_link_attributes(links: Mapping[str, str]) -> Attributes:
    """Returns the attributes that refer a span to others.

    Args:
        links: What the other spans carry: values by the name of their attribute, or of `trace_id` or `span_id`.

    Raises:
        ValueError: A value is no string.
    """
    attributes: Attributes = {}
    for index, (key, value) in enumerate(links.items()):
        if not isinstance(value, str):
            raise ValueError(f"link {key!r} must match a string, not a {type(value).__name__}")
        attributes[f"{_LINK}.{index}.{_KEY}"] = key
        attributes[f"{_LINK}.{index}.{_VALUE}"] = value
    return attributes


def extract_links_from_attributes(attributes: Mapping[str, Any]) -> list[LinkPydanticModel]:
    """Returns the links among the attributes of a span.

    Raises:
        ValueError: One says only half of what it matches.
    """
    links = filter_and_unflatten_attributes(attributes, _LINK)
    return [LinkPydanticModel.model_validate(link) for link in links] if isinstance(links, list) else []


def query_linked_spans(spans: Sequence[S], links: Sequence[LinkPydanticModel]) -> list[S]:
    """Returns the spans that every link matches, in the order given.

    A link matches a span whose attribute `key_match` equals `value_match`; `trace_id` and `span_id` stand for the
    span's own ids, in hex.
    """
    return [span for span in spans if all(_match_of(span, link.key_match) == link.value_match for link in links)]


def format_exception_attributes(exception: BaseException) -> Attributes:
    """Returns an exception as OpenTelemetry's conventions describe one: type, message, stack trace."""
    return {
        "exception.type": full_qualified_name(type(exception)),
        "exception.message": str(exception),
        "exception.stacktrace": "".join(traceback.format_exception(exception)),
        "exception.escaped": True,
    }


def _match_of(span: SpanLike, key: str) -> Any:
    if key in ("trace_id", "span_id"):
        if isinstance(span, Span):
            return getattr(span, key)
        context = span.get_span_context()
        return context and f"{getattr(context, key):0{32 if key == 'trace_id' else 16}x}"
    return (span.attributes or {}).get(key)
