"""Messages: putting a text into a trace, and getting it back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentlightning.emitter.emission import emit_span
from agentlightning.semconv import AGL_MESSAGE, LightningSpanAttributes
from agentlightning.types import SpanAttributeNames, SpanCoreFields, SpanLike

_BODY = LightningSpanAttributes.MESSAGE_BODY.value
_OLD_BODY = SpanAttributeNames.MESSAGE.value


def emit_message(message: str, attributes: Mapping[str, Any] | None = None, propagate: bool = True) -> SpanCoreFields:
    """Puts a text into the trace of the rollout that is running.

    Args:
        message: The text.
        attributes: What else to note on the span; nested values are flattened with dots.
        propagate: Hand the span to the active tracer. Without it the span is only returned.

    Returns:
        The span, without the ids that its trace gives it.

    Raises:
        TypeError: The message is no string; `emit_object` takes other things.
        RuntimeError: There is no active tracer to hand the span to.
    """
    if not isinstance(message, str):
        raise TypeError(f"a message must be a string, not a {type(message).__name__}; emit_object takes other things")
    return emit_span(AGL_MESSAGE, {_BODY: message}, attributes, propagate=propagate)


def get_message_value(span: SpanLike) -> str | None:
    """Returns the text that a span carries; None if it carries none.

    Reads what release 0.3 writes, and the `message` attribute of release 0.2.
    """
    attributes = span.attributes or {}
    body = attributes.get(_BODY)
    if body is None and span.name == AGL_MESSAGE:
        body = attributes.get(_OLD_BODY)
    return None if body is None else str(body)
