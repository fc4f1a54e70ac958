"""What the store returns, as JSON."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Response
from pydantic import BaseModel

from agentlightning.codec.payload import JSON
from agentlightning.types import PaginatedResult


def answer(value: Any, status: int = 200) -> Response:
    """Returns the answer to a request.

    What was just done must not end in an error because of how it looks, so this writes all that a store holds: inputs
    nested as deeply as they may be, bytes as base64, and the numbers that JSON does not have as `"NaN"`, `"Infinity"`
    and `"-Infinity"`, as the JSON form of Protocol Buffers has them.

    Args:
        value: Models of this library, and anything made of them and of what JSON knows.
        status: The status code.
    """
    try:
        text = _encode(value)
    except ValueError:
        text = _encode(_with_finite_numbers(value))
    # Some answers to a GET are given once, and none is the same for long.
    return Response(text.encode(), status, {"Cache-Control": "no-store"}, JSON)


def _plain(value: Any) -> Any:
    # Not a model's own way to JSON: that gives up on what is nested deeply, and takes several times as long.
    if isinstance(value, PaginatedResult):
        return {"items": value.items, "limit": value.limit, "offset": value.offset, "total": value.total}
    if isinstance(value, BaseModel):
        return {**value.__dict__, **(value.__pydantic_extra__ or {})}
    if isinstance(value, bytes):
        return base64.urlsafe_b64encode(value).decode()
    raise TypeError(f"a {type(value).__name__} has no form in JSON")


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain).encode


def _with_finite_numbers(value: Any) -> Any:
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: _with_finite_numbers(item) for key, item in value.items()}
    if isinstance(value, BaseModel):
        return _with_finite_numbers(_plain(value))
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_with_finite_numbers(item) for item in value]
    return value
