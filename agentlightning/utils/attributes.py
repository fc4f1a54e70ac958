"""Attributes of spans: nested values made flat and nested again, and any value made one that a span can hold."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from pydantic_core import to_jsonable_python

from agentlightning.types import Attributes, AttributeValue

__all__ = [
    "check_attributes_sanity",
    "filter_and_unflatten_attributes",
    "filter_attributes",
    "flatten_attributes",
    "full_qualified_name",
    "sanitize_attribute_value",
    "sanitize_attributes",
    "to_json",
    "unflatten_attributes",
]

MOST_LEVELS: Final = 64
"""How deep nested values are flattened."""

_PLAIN = frozenset({str, bool, int, float})
_NUMBERS = frozenset({int, float})
_MOST_POSITIVE = (1 << 63) - 1
_MOST_NEGATIVE = -(1 << 63)


def flatten_attributes(
    nested_data: Mapping[Any, Any] | Sequence[Any], *, expand_leaf_lists: bool = False
) -> dict[str, Any]:
    """Returns one attribute for each leaf, its path joined by dots: `{"a": {"b": 1}}` becomes `{"a.b": 1}`.

    Args:
        nested_data: Mappings and sequences in each other. Anything else is a leaf and stays as it is; so does what lies
            `MOST_LEVELS` deep, and a value that contains itself, where it comes again. A mapping without entries
            leaves nothing behind.
        expand_leaf_lists: Number the items of every sequence: `a.0`, `a.1`. Unless given, one whose items are all
            strings, all booleans or all numbers is a leaf, as a span can hold it. `nested_data` itself is always
            numbered.
    """
    flat: dict[str, Any] = {}
    _flatten_into(flat, "", nested_data, expand_leaf_lists, {id(nested_data)})
    return flat


def unflatten_attributes(flat_data: Mapping[str, Any]) -> dict[str, Any] | list[Any]:
    """Returns the nested values that `flatten_attributes` made flat.

    What has the keys 0 to n-1 becomes a list. Of two attributes that cannot both stand, such as `a` and `a.b`, the
    later one does.
    """
    root: dict[str, Any] = {}
    # Only dictionaries made here are walked into and made lists: values of attributes stay as they are.
    branches: list[tuple[dict[str, Any], str, dict[str, Any]]] = []
    known: set[int] = set()
    for path, value in flat_data.items():
        *ways, last = path.split(".")
        branch = root
        for way in ways:
            if id(branch.get(way)) not in known:
                below: dict[str, Any] = {}
                known.add(id(below))
                branches.append((branch, way, below))
                branch[way] = below
            branch = branch[way]
        branch[last] = value
    for branch, way, below in reversed(branches):
        if branch.get(way) is below:
            branch[way] = _list_if_numbered(below)
    return _list_if_numbered(root)


def filter_attributes(attributes: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Returns the attribute `prefix` and those below it, such as `prefix.0.name`, under their full names."""
    return {key: value for key, value in attributes.items() if key == prefix or key.startswith(f"{prefix}.")}


def filter_and_unflatten_attributes(attributes: Mapping[str, Any], prefix: str) -> dict[str, Any] | list[Any]:
    """Returns what lies below `prefix`, nested again; an empty dictionary if nothing does.

    Raises:
        ValueError: There is an attribute `prefix` itself: a value, with nothing below it.
    """
    if prefix in attributes:
        raise ValueError(f"attribute {prefix!r} is a value itself; nothing can be nested below it")
    below = filter_attributes(attributes, prefix)
    return unflatten_attributes({key[len(prefix) + 1 :]: value for key, value in below.items()})


def sanitize_attribute_value(object: Any, force: bool = True) -> AttributeValue:
    """Returns `object` if a span can hold it, else what comes closest to it.

    Strings, booleans, numbers, and sequences of one of these stay; integers among floats become floats. Everything
    else, None and integers of more than 64 bits included, becomes JSON; see `to_json`. Half surrogate pairs, which
    models produce and UTF-8 cannot express, are spelled out.

    Args:
        object: Any value.
        force: Write what JSON cannot express as `str` has it.

    Raises:
        ValueError: Without `force`: JSON cannot express it.
    """
    if isinstance(object, str):
        return _valid_text(object)
    if isinstance(object, (bool, float)):
        return object
    if isinstance(object, int) and _fits(object):
        return int(object)
    if isinstance(object, Sequence) and not isinstance(object, (bytes, bytearray)):
        plain = _plain_list(object)
        if plain is not None:
            return plain
    return to_json(object, force=force)


def sanitize_attributes(attributes: Mapping[Any, Any], force: bool = True) -> Attributes:
    """Returns attributes that a span can hold; see `sanitize_attribute_value`.

    Raises:
        ValueError: Without `force`: JSON cannot express one; the message names it.
    """
    sane: Attributes = {}
    for key, value in attributes.items():
        try:
            sane[_valid_text(str(key))] = sanitize_attribute_value(value, force)
        except ValueError as error:
            raise ValueError(f"attribute {key!r}: {error}") from error
    return sane


def check_attributes_sanity(attributes: Mapping[Any, Any]) -> None:
    """Returns if a span can hold the attributes as they are.

    Raises:
        ValueError: A name is no string, or a value is none that an attribute can have; the message names it.
    """
    for key, value in attributes.items():
        if not isinstance(key, str):
            raise ValueError(f"attribute names must be strings, not {type(key).__name__}: {key!r}")
        if isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray)):
            if not _is_leaf_list(value):
                kinds = sorted({type(item).__name__ for item in value})
                raise ValueError(f"attribute {key!r} cannot hold a list of {', '.join(kinds)}")
        elif not isinstance(value, (str, bool, int, float)):
            raise ValueError(f"attribute {key!r} cannot hold a {type(value).__name__}")


def to_json(value: Any, *, force: bool = False) -> str:
    """Returns `value` as JSON.

    Besides what JSON knows, there may be pydantic models, dataclasses, arrays and tensors (whatever has `tolist`),
    bytes (as base64), sets, enums, times, paths, and other things that pydantic can write. Iterators are not touched.

    Args:
        value: Any value.
        force: Write what is none of these as `str` has it.

    Raises:
        ValueError: Without `force`: part of it cannot be written, or it contains itself.
    """

    def plain(part: Any) -> Any:
        try:
            return _plain(part)
        except Exception:
            if force:
                return _printed(part)
            raise

    try:
        return json.dumps(value, default=plain)
    except Exception as error:  # a user's own serializers may raise anything
        if force:
            return json.dumps(_printed(value))
        raise ValueError(f"a {full_qualified_name(type(value))} cannot be written as JSON: {error}") from error


def full_qualified_name(obj: type) -> str:
    """Returns the module and name of a class, joined by a dot; the name alone of a built-in one."""
    return obj.__qualname__ if obj.__module__ == "builtins" else f"{obj.__module__}.{obj.__qualname__}"


def _flatten_into(flat: dict[str, Any], prefix: str, nested: Any, expand_leaf_lists: bool, above: set[int]) -> None:
    entries: Iterable[tuple[Any, Any]] = nested.items() if isinstance(nested, Mapping) else enumerate(nested)
    for key, value in entries:
        path = f"{prefix}{key}"
        if _is_branch(value, expand_leaf_lists) and id(value) not in above and len(above) < MOST_LEVELS:
            _flatten_into(flat, f"{path}.", value, expand_leaf_lists, above | {id(value)})
        else:
            flat[path] = value


def _is_branch(value: Any, expand_leaf_lists: bool) -> bool:
    if isinstance(value, Mapping):
        return True
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes, bytearray, memoryview, range)):
        return False
    return bool(value) and (expand_leaf_lists or not _is_leaf_list(value))


def _is_leaf_list(value: Sequence[Any]) -> bool:
    kinds = set(map(type, value))
    return kinds <= _NUMBERS or (len(kinds) == 1 and kinds <= _PLAIN)


def _plain_list(value: Sequence[Any]) -> list[Any] | None:
    if not _is_leaf_list(value):
        return None
    kinds = set(map(type, value))
    if str in kinds:
        return [_valid_text(item) for item in value]
    if int in kinds and not all(map(_fits, value)):
        return None
    return [float(item) for item in value] if kinds == _NUMBERS else list(value)


def _list_if_numbered(branch: dict[str, Any]) -> dict[str, Any] | list[Any]:
    if branch and all(str(index) in branch for index in range(len(branch))):
        return [branch[str(index)] for index in range(len(branch))]
    return branch


def _fits(number: float) -> bool:
    return type(number) is float or _MOST_NEGATIVE <= number <= _MOST_POSITIVE


def _valid_text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _plain(part: Any) -> Any:
    if isinstance(part, (bytes, bytearray)):
        return base64.b64encode(part).decode()
    if isinstance(part, Mapping):
        return dict(part)
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        return {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    if hasattr(part, "tolist"):
        return part.tolist()
    # pydantic would run an iterator dry that the agent still needs.
    if isinstance(part, Iterator):
        raise TypeError(f"a {type(part).__name__} cannot be written without using it up")
    return to_jsonable_python(part, bytes_mode="base64")


def _printed(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - a user's own __str__ may raise anything
        return f"<{full_qualified_name(type(value))}>"
