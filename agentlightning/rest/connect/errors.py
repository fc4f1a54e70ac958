"""Errors of the store as the Connect protocol has them."""

from __future__ import annotations

import base64
import math
from typing import Any, Final

from google.protobuf import json_format
from starlette.responses import JSONResponse

from agentlightning.store import status
from agentlightning.store.errors import StoreError

HTTP_STATUSES: Final = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
"""The status of each code, as the protocol says."""


def error_body(error: StoreError) -> dict[str, Any]:
    """Returns an error as JSON: its code, its message, and its details both packed and legible."""
    details = []
    for detail in status.to_status(error).details:
        legible = json_format.MessageToDict(detail)
        del legible["@type"]
        value = base64.b64encode(detail.value).rstrip(b"=").decode()
        details.append({"type": detail.TypeName(), "value": value, "debug": legible})
    return {"code": error.code.lower(), "message": status.message(error), "details": details}


def error_response(error: StoreError) -> JSONResponse:
    """Returns the answer to a call that failed."""
    headers = None if error.retry_after is None else {"Retry-After": str(math.ceil(error.retry_after))}
    return JSONResponse(error_body(error), HTTP_STATUSES[error.code], headers)
