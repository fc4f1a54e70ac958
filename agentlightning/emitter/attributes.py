"""Nested values as flat span attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentlightning.types import Attributes


def flatten_attributes(nested: Mapping[str, Any]) -> Attributes:
    """Returns `nested` with one attribute for each leaf, its path joined by dots: `{"a": {"b": 1}}` is `{"a.b": 1}`.

    A list of plain values of one type stays one attribute; any other list is numbered: `a.0`, `a.1`. None is left
    out, as attributes know no null.

    Raises:
        TypeError: A leaf is of no type that an attribute can have; the message names its path.
    """
    flat: Attributes = {}
    for key, value in nested.items():
        _flatten_into(flat, str(key), value)
    return flat


def _flatten_into(flat: Attributes, path: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, (str, bool, int, float)):
        flat[path] = value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _flatten_into(flat, f"{path}.{key}", item)
    elif isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        if _is_plain_list(value):
            flat[path] = list(value)
        else:
            for index, item in enumerate(value):
                _flatten_into(flat, f"{path}.{index}", item)
    else:
        raise TypeError(f"attribute {path!r} cannot hold a {type(value).__name__}")


def _is_plain_list(value: Sequence[Any]) -> bool:
    kinds = {type(item) for item in value}
    return len(kinds) <= 1 and kinds <= {str, bool, int, float}
