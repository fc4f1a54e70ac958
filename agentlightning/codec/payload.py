"""Values of the user as `Payload` messages: RFC 8259 JSON."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from agentlightning.codec.errors import CodecError, NotCarriedError
from lightning_store import v1

JSON = "application/json"
"""The only content type that this client reads and writes."""

NULL = b"null"
"""JSON's null."""

_SCALARS = frozenset({str, int, float, bool, type(None)})


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_decode = json.JSONDecoder(parse_constant=_reject_constant).decode


def to_payload(value: Any, path: str) -> v1.Payload:
    """Encodes a value of the user.

    Args:
        value: Anything made of dictionaries with string keys, lists, tuples (which become lists), strings, integers of
            any size, finite floats, booleans and `None`.
        path: What the value is called where an error is reported, such as `input`.

    Returns:
        The value as JSON.

    Raises:
        NotCarriedError: Part of the value is something else; the error names the part, such as
            `input.messages[3].score`.
    """
    return v1.Payload(content_type=JSON, data=_to_json(value, path))


def object_to_payload(value: dict[str, Any] | None, path: str) -> v1.Payload:
    """Encodes a dictionary of the user, or `None`, as `to_payload` does.

    Raises:
        NotCarriedError: The value is neither, or part of it cannot be carried.
    """
    if value is not None and not isinstance(value, dict):
        raise NotCarriedError(f"{path} must be a dictionary, not a {type(value).__name__}")
    return v1.Payload(content_type=JSON, data=_to_json(value, path))


def from_payload(payload: v1.Payload, path: str) -> Any:
    """Decodes a value of the user.

    Args:
        payload: The message.
        path: What the value is called where an error is reported.

    Raises:
        CodecError: It is of another content type, or not JSON.
    """
    if payload.content_type != JSON:
        raise CodecError(f"{path} has the content type {payload.content_type!r}; this client reads {JSON!r} only")
    try:
        return _decode(payload.data.decode())
    except (ValueError, RecursionError) as error:
        raise CodecError(f"{path} is not JSON that can be read: {error}") from error


def object_from_payload(payload: v1.Payload, path: str) -> dict[str, Any] | None:
    """Decodes a dictionary of the user, or `None`, as `from_payload` does.

    Raises:
        CodecError: It is neither, or cannot be decoded.
    """
    value = from_payload(payload, path)
    if value is not None and not isinstance(value, dict):
        raise CodecError(f"{path} is a JSON {type(value).__name__}, not an object")
    return value


def _to_json(value: Any, path: str) -> bytes:
    try:
        if _has_string_keys(value):
            return _encode(value).encode()
    except (TypeError, ValueError, RecursionError):
        pass
    try:
        fault = _find_fault(value, path, frozenset())
    except RecursionError:
        fault = f"{path} is nested too deeply"
    raise NotCarriedError(fault or f"{path} cannot be encoded as JSON")


def _has_string_keys(value: Any) -> bool:
    # The encoder would turn other keys into strings without a word; everything else that is wrong it reports itself.
    if type(value) in _SCALARS:
        return True
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(
            type(item) in _SCALARS or _has_string_keys(item) for item in value.values()
        )
    if isinstance(value, (list, tuple)):
        return _SCALARS.issuperset(map(type, value)) or all(_has_string_keys(item) for item in value)
    return True


def _find_fault(value: Any, path: str, above: frozenset[int]) -> str | None:
    if isinstance(value, (dict, list, tuple)):
        if id(value) in above:
            return f"{path} contains itself, which JSON cannot carry"
        above |= {id(value)}
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                return f"{path} has the key {key!r}; keys of JSON are strings"
            inner = f"{path}.{key}" if key.isidentifier() else f"{path}[{key!r}]"
            fault = _find_scalar_fault(key, f"a key of {path}") or _find_fault(item, inner, above)
            if fault:
                return fault
        return None
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            fault = _find_fault(item, f"{path}[{index}]", above)
            if fault:
                return fault
        return None
    return _find_scalar_fault(value, path)


def _find_scalar_fault(value: Any, path: str) -> str | None:
    try:
        _encode(value).encode()
    except UnicodeEncodeError:
        return f"{path} has half of a surrogate pair, which UTF-8 cannot carry"
    except ValueError as error:
        shown = repr(value) if isinstance(value, float) else f"a {type(value).__name__} ({error})"
        return f"{path} is {shown}, which JSON cannot carry"
    except TypeError:
        return f"{path} is a {type(value).__name__}, which JSON cannot carry"
    return None
