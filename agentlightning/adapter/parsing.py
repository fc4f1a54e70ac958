"""Attribute values as instrumentations write them: structures as JSON or Python literals, lists as numbered names."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from typing import Any

from agentlightning.utils.attributes import filter_and_unflatten_attributes

__all__ = ["json_structure", "mapping", "nested", "numbered", "structure", "token_ids"]

_MOST_DIGITS = 9


def structure(value: Any) -> Any:
    """Returns the mapping or sequence that `value` is or spells out, as JSON or as a Python literal; else None."""
    found = json_structure(value)
    if found is None and isinstance(value, str) and value.lstrip().startswith(("{", "[", "(")):
        # Endless or deeply nested text must not take the reader down.
        try:
            return _if_structure(ast.literal_eval(value.strip()))
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None
    return found


def json_structure(value: Any) -> Any:
    """Returns the mapping or sequence that `value` is or spells out as JSON; else None."""
    if isinstance(value, str):
        if not value.lstrip().startswith(("{", "[")):
            return None
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return None
    return _if_structure(value)


def mapping(value: Any) -> Mapping[str, Any]:
    """Returns a mapping as it is, and an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def nested(attributes: Mapping[str, Any], name: str) -> Any:
    """Returns the mapping or list that stands in the attribute `name` or is spread below it; None if neither."""
    if name in attributes:
        return structure(attributes[name])
    return filter_and_unflatten_attributes(attributes, name) or None


def numbered(value: Any) -> list[Any]:
    """Returns the items of a list, or of a mapping with numbers for keys, in order; what is neither has none.

    Some instrumentations leave out items that they cannot express, so the numbers may have gaps.
    """
    if isinstance(value, Mapping):
        keys = [key for key in value if isinstance(key, str) and key.isdecimal() and len(key) <= _MOST_DIGITS]
        return [value[key] for key in sorted(keys, key=int)]
    return list(value) if isinstance(value, (list, tuple)) else []


def token_ids(value: Any) -> list[int] | None:
    """Returns a list of token ids from any form that it is written in; None if it is none.

    A list in a list, one for each choice, stands for its first.
    """
    ids = structure(value)
    if not isinstance(ids, (list, tuple)):
        return None
    if ids and isinstance(ids[0], (list, tuple)):
        ids = ids[0]
    return list(ids) if {type(item) for item in ids} <= {int} else None


def _if_structure(value: Any) -> Any:
    return value if isinstance(value, (Mapping, Sequence)) and not isinstance(value, (str, bytes)) else None
