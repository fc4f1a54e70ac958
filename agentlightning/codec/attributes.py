"""Attributes of spans and their parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from lightning_store import v1

SCALARS = frozenset({"string_value", "bool_value", "int_value", "double_value", "bytes_value"})
"""The fields of `AnyValue` that hold what Python has as it is."""


class AddPair(Protocol):
    """The `add` of a repeated field of pairs."""

    def __call__(self) -> v1.KeyValue: ...


def value_from_message(value: v1.AnyValue) -> Any:
    """Decodes the value of an attribute. OTLP's null is `None`, its named values are a dictionary."""
    which = value.WhichOneof("value")
    if which in SCALARS:
        return getattr(value, which)
    if which == "array_value":
        items = value.array_value.values
        kinds = {item.WhichOneof("value") for item in items}
        if len(kinds) == 1 and SCALARS.issuperset(kinds):
            # Token ids of foreign exporters come this way, hundreds at a time.
            kind: Any = kinds.pop()
            return [getattr(item, kind) for item in items]
        return [value_from_message(item) for item in items]
    if which == "kvlist_value":
        return {pair.key: value_from_message(pair.value) for pair in value.kvlist_value.values}
    return None


def attributes_to_messages(attributes: Mapping[str, Any], add: AddPair, path: str) -> None:
    """Encodes attributes.

    Args:
        attributes: Attributes by name.
        add: Makes a new pair in the message.
        path: What the attributes are called where an error is reported.

    Raises:
        ValueError: A value does not fit into the message; the error names the attribute.
    """
    key: Any = None
    try:
        for key, value in attributes.items():
            pair = add()
            pair.key = key
            kind = type(value)
            if kind is str:
                pair.value.string_value = value
            elif kind is int:
                pair.value.int_value = value
            elif kind is float:
                pair.value.double_value = value
            elif value is not None:
                _value_to_message(value, pair.value)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}[{key!r}] cannot be stored: {error}") from error


def _value_to_message(value: Any, target: v1.AnyValue) -> None:
    if isinstance(value, str):
        target.string_value = value
    elif isinstance(value, bool):
        target.bool_value = value
    elif isinstance(value, int):
        target.int_value = value
    elif isinstance(value, float):
        target.double_value = value
    elif isinstance(value, (bytes, bytearray)):
        target.bytes_value = bytes(value)
    elif isinstance(value, Mapping):
        target.kvlist_value.SetInParent()
        for key, item in value.items():
            pair = target.kvlist_value.values.add()
            pair.key = key
            if item is not None:
                _value_to_message(item, pair.value)
    elif isinstance(value, Sequence):
        target.array_value.SetInParent()
        add = target.array_value.values.add
        for item in value:
            added = add()
            if item is not None:
                _value_to_message(item, added)
    else:
        raise TypeError(f"a {type(value).__name__} is no value of an attribute")
