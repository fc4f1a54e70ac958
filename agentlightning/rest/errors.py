"""Errors as HTTP answers: a status, and a body `{"detail": "..."}` that says what was wrong and no more."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Final, NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from agentlightning.codec.errors import CodecError, NotCarriedError
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
_STATUSES_OF_REASONS: Final = {"EXPERIMENT_NOT_FOUND": 503, "MESSAGE_TOO_LARGE": 413, "UNKNOWN_COMPRESSION": 415}
_MOST_FAULTS: Final = 5
_LONGEST_DETAIL: Final = 900


class Fault(NamedTuple):
    """What a client is told of an error."""

    status: int
    """The status code."""
    detail: str
    """What was wrong, in a sentence."""
    retry_after: float | None = None
    """Seconds after which trying again may help."""

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the answer."""
        return {} if self.retry_after is None else {"Retry-After": str(math.ceil(self.retry_after))}


def install_error_handlers(app: FastAPI) -> None:
    """Has every error of an application answered in the one way."""
    app.add_exception_handler(RequestValidationError, _refuse_malformed)
    app.add_exception_handler(StoreError, _answer_failure)
    app.add_exception_handler(ValueError, _answer_failure)
    app.add_exception_handler(NotCarriedError, _answer_failure)
    app.add_exception_handler(Exception, _answer_failure)


def fault_of(error: Exception) -> Fault:
    """Returns what a client is told of an error. One that is this server's own is logged, and its details stay here."""
    if isinstance(error, HTTPException):
        return Fault(error.status_code, error.detail)
    # A store raises ValueError for what was wrong with a call, because of the error that says which fault it was.
    cause = error if isinstance(error, StoreError) else error.__cause__
    if isinstance(cause, StoreError):
        status = _STATUSES_OF_REASONS.get(cause.reason) or _STATUSES.get(type(cause))
        if status is not None:
            return Fault(status, cause.message, cause.retry_after)
    elif isinstance(error, CodecError):
        return Fault(503, f"The store holds something that cannot be read: {error}")
    elif isinstance(error, (NotCarriedError, ValueError)):
        # What else is wrong with the arguments of a call shows when they are encoded.
        return Fault(400, str(error))
    logger.error("a request failed", exc_info=error)
    return Fault(500, "Internal server error; the server's log says more.")


def sentence(text: str) -> str:
    """Returns what can be sent of a sentence that quotes what a client sent: its beginning, and no half characters."""
    return text[:_LONGEST_DETAIL].encode(errors="replace").decode()


def error_response(status: int, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Returns the answer that says what was wrong, in a sentence."""
    return JSONResponse({"detail": sentence(detail)}, status, headers)


async def _refuse_malformed(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
    if len(faults) > _MOST_FAULTS:
        faults[_MOST_FAULTS:] = [f"{len(faults) - _MOST_FAULTS} more"]
    return error_response(400, "; ".join(faults))


async def _answer_failure(request: Request, error: Exception) -> JSONResponse:
    fault = fault_of(error)
    return error_response(fault.status, fault.detail, fault.headers)
