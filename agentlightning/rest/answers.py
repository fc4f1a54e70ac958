"""What the store returns, as JSON."""

from __future__ import annotations

import json
from typing import Any

from fastapi import Response
from pydantic import BaseModel
from pydantic_core import to_json

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
    if isinstance(value, PaginatedResult):
        value = vars(value)  # as a model it would have its way with the numbers of its items
    try:
        data = to_json(value, bytes_mode="base64", inf_nan_mode="strings")
    except ValueError:  # pydantic does not go as deep as inputs may
        data = _encode(value).encode()
    # Some answers to a GET are given once, and none is the same for long.
    return Response(data, status, {"Cache-Control": "no-store"}, JSON)


def _fields(model: BaseModel) -> dict[str, Any]:
    return {**model.__dict__, **(model.__pydantic_extra__ or {})}


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_fields).encode
