"""Store errors as `google.rpc.Status` on the wire, and back."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from agentlightning.store.errors import BY_CODE, DOMAIN, Internal, StoreError

logger = logging.getLogger(__name__)

DETAILS_KEY = "grpc-status-details-bin"
"""Trailing metadata that holds the `google.rpc.Status`."""

# Errors travel as trailers, and gRPC drops a call whose trailers are above 8 KiB.
_LONGEST_MESSAGE = 1024
_LONGEST_DETAIL = 256


def public_error(error: Exception) -> StoreError:
    """Return what a caller is told. An error that the contract does not name is logged, and its details stay here."""
    if isinstance(error, Internal) or not isinstance(error, StoreError):
        logger.error("A call failed for a reason that is not the caller's.", exc_info=error)
    if isinstance(error, StoreError):
        return error
    return Internal("The store failed; its log says how.", reason="INTERNAL")


def status_code(error: StoreError) -> grpc.StatusCode:
    """Return the status code of an error."""
    return grpc.StatusCode[error.code]


def message(error: StoreError) -> str:
    """Return the message of an error, cut to what fits on the wire."""
    return _cut(error.message, _LONGEST_MESSAGE)


def to_status(error: StoreError) -> Status:
    """Return an error with its details."""
    code: int = status_code(error).value[0]
    status = Status(code=code, message=message(error))
    metadata = {key: _cut(value, _LONGEST_DETAIL) for key, value in error.metadata.items()}
    status.details.add().Pack(ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata))
    if error.retry_after is not None:
        delay = Duration()
        delay.FromNanoseconds(int(error.retry_after * 1e9))
        status.details.add().Pack(RetryInfo(retry_delay=delay))
    return status


def encode(error: StoreError) -> bytes:
    """Return the details that go with an error."""
    data: bytes = to_status(error).SerializeToString()
    return data


def _cut(text: str, most: int) -> str:
    data = text.encode(errors="replace")
    return text if len(data) <= most else data[: most - 3].decode(errors="ignore") + "..."


def decode(code: grpc.StatusCode, message: str, trailing: Iterable[tuple[str, str | bytes]]) -> StoreError:
    """Return the error that a call ended with."""
    reason, metadata, retry_after = code.name, {}, None
    for key, value in trailing:
        if key != DETAILS_KEY or not isinstance(value, bytes):
            continue
        try:
            status = Status.FromString(value)
        except DecodeError:  # another server's idea of details
            continue
        for detail in status.details:
            info, retry = ErrorInfo(), RetryInfo()
            if detail.Unpack(info):
                reason, metadata = info.reason, dict(info.metadata)
            elif detail.Unpack(retry):
                retry_after = retry.retry_delay.ToNanoseconds() / 1e9
    error = BY_CODE.get(code.name)
    if error is None:
        error = BY_CODE["INTERNAL"]
        message = f"{code.name}: {message}"
    return error(message, reason=reason, metadata=metadata, retry_after=retry_after)
