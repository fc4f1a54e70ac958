"""Objects: putting anything that JSON can express into a trace, and getting it back."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

from agentlightning.emitter.emission import emit_span
from agentlightning.semconv import AGL_OBJECT, LightningSpanAttributes
from agentlightning.types import Attributes, SpanAttributeNames, SpanCoreFields, SpanLike
from agentlightning.utils.attributes import full_qualified_name, to_json

_TYPE = LightningSpanAttributes.OBJECT_TYPE.value
_LITERAL = LightningSpanAttributes.OBJECT_LITERAL.value
_JSON = LightningSpanAttributes.OBJECT_JSON.value
_OLD_JSON = SpanAttributeNames.OBJECT.value

_LITERALS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": lambda text: text == "True",
    "bytes": base64.b64decode,
}


def emit_object(object: Any, attributes: Mapping[str, Any] | None = None, propagate: bool = True) -> SpanCoreFields:
    """Puts an object into the trace of the rollout that is running.

    Args:
        object: What to keep; see `encode_object` for what can be.
        attributes: What else to note on the span; nested values are flattened with dots.
        propagate: Hand the span to the active tracer. Without it the span is only returned.

    Returns:
        The span, without the ids that its trace gives it.

    Raises:
        RuntimeError: JSON cannot express the object, or there is no active tracer to hand the span to.
    """
    return emit_span(AGL_OBJECT, encode_object(object), attributes, propagate=propagate)


def encode_object(object: Any) -> Attributes:
    """Returns the attributes that carry an object.

    Strings, booleans, numbers and bytes (as base64) become a literal; everything else becomes JSON: dictionaries,
    lists, None, pydantic models, dataclasses, arrays, and what else `agentlightning.utils.attributes.to_json` writes.

    Raises:
        RuntimeError: JSON cannot express it.
    """
    kind = type(object)
    name = full_qualified_name(kind)
    if kind is bytes:
        return {_TYPE: name, _LITERAL: base64.b64encode(object).decode()}
    if name in _LITERALS:
        return {_TYPE: name, _LITERAL: str(object)}
    try:
        return {_TYPE: name, _JSON: to_json(object)}
    except ValueError as error:
        raise RuntimeError(f"the object cannot be emitted: {error}") from error


def get_object_value(span: SpanLike) -> Any:
    """Returns the object that a span carries, as plain values; None if it carries none.

    Reads what release 0.3 writes, and the `object` attribute of release 0.2. A pydantic model or a dataclass comes
    back as a dictionary, a tuple as a list.

    Raises:
        ValueError: What the span carries is broken.
    """
    attributes = span.attributes or {}
    literal = attributes.get(_LITERAL)
    if literal is not None:
        return _LITERALS.get(str(attributes.get(_TYPE)), str)(str(literal))
    text = attributes.get(_JSON)
    if text is None and span.name == AGL_OBJECT:
        text = attributes.get(_OLD_JSON)
    return None if text is None else json.loads(str(text))
