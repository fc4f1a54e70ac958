"""Errors as HTTP answers: a status, and a body `{"detail": "..."}` that says what was wrong and no more."""

from __future__ import annotations

import logging
import math
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from agentlightning.codec.errors import CodecError
from agentlightning.store.errors import (
    Aborted,
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    StoreError,
    Unauthenticated,
    Unavailable,
)

logger = logging.getLogger(__name__)

_STATUSES: Final = {
    InvalidArgument: 400,
    Unauthenticated: 401,
    PermissionDenied: 403,
    NotFound: 404,
    AlreadyExists: 409,
    FailedPrecondition: 409,
    Aborted: 409,
    ResourceExhausted: 503,
    Unavailable: 503,
    DeadlineExceeded: 503,
}
# The reason says more than the code: an experiment may be created any moment, a large message stays large.
_STATUSES_OF_REASONS: Final = {"EXPERIMENT_NOT_FOUND": 503, "MESSAGE_TOO_LARGE": 413}
_MOST_FAULTS: Final = 5


def install_error_handlers(app: FastAPI) -> None:
    """Has every error of an application answered in the one way."""
    app.add_exception_handler(RequestValidationError, _refuse_malformed)
    app.add_exception_handler(StoreError, _answer_failure)
    app.add_exception_handler(ValueError, _answer_failure)
    app.add_exception_handler(Exception, _answer_failure)


def error_response(status: int, detail: str, *, retry_after: float | None = None) -> JSONResponse:
    """Returns the answer that says what was wrong.

    Args:
        status: The status code.
        detail: What was wrong, in a sentence.
        retry_after: Seconds after which trying again may help.
    """
    headers = None if retry_after is None else {"Retry-After": str(math.ceil(retry_after))}
    # What a client sent may come back in the sentence, and half a surrogate pair cannot be sent.
    return JSONResponse({"detail": detail.encode(errors="replace").decode()}, status, headers)


async def _refuse_malformed(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
    if len(faults) > _MOST_FAULTS:
        faults[_MOST_FAULTS:] = [f"{len(faults) - _MOST_FAULTS} more"]
    return error_response(400, "; ".join(faults))


async def _answer_failure(request: Request, error: Exception) -> JSONResponse:
    # A store raises ValueError for what was wrong with a call, because of the error that says which fault it was.
    cause = error if isinstance(error, StoreError) else error.__cause__
    if isinstance(cause, StoreError):
        status = _STATUSES_OF_REASONS.get(cause.reason) or _STATUSES.get(type(cause))
        if status is not None:
            return error_response(status, cause.message, retry_after=cause.retry_after)
    if isinstance(error, CodecError):
        return error_response(503, f"The store holds something that cannot be read: {error}")
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return error_response(500, "Internal server error; the server's log says more.")
