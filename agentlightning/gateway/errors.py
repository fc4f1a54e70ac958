"""What the gateway itself answers when a call fails on it."""

from __future__ import annotations

import json

from agentlightning.gateway.apis.base import Document, Protocol

_ANTHROPIC_TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error"}
_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}


class GatewayError(Exception):
    """A call cannot be served.

    Attributes:
        status: The HTTP status that says so.
        message: The fault, and what to do, in a sentence.
        code: A word for programs.
        retry_after: Seconds after which trying again may help; None when it will not.
    """

    def __init__(self, status: int, message: str, code: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.retry_after = retry_after


def error_document(error: GatewayError, protocol: Protocol) -> Document:
    """Returns an error as clients of a protocol expect it."""
    if protocol == "anthropic":
        kind = _ANTHROPIC_TYPES.get(error.status) or ("not_found_error" if error.status == 404 else "api_error")
        return {"type": "error", "error": {"type": kind, "message": error.message}}
    kind = _OPENAI_TYPES.get(error.status) or ("invalid_request_error" if error.status < 500 else "server_error")
    return {"error": {"message": error.message, "type": kind, "param": None, "code": error.code}}


def error_body(error: GatewayError, protocol: Protocol) -> bytes:
    """Returns `error_document` as JSON."""
    return json.dumps(error_document(error, protocol)).encode()
