"""The errors of the store, as the contract names them, free of gRPC."""

from __future__ import annotations

from collections.abc import Mapping

DOMAIN = "lightning_store.v1"
"""Domain of every reason; the `ErrorInfo.domain` on the wire."""


class StoreError(Exception):
    """A call failed in a way that the contract names.

    Attributes:
        code: Name of the gRPC status code, such as `NOT_FOUND`.
        reason: The contract's word for the fault, such as `ROLLOUT_NOT_FOUND`.
        message: The fault in a sentence, for people.
        metadata: Details for programs, such as the id that was not found.
        retry_after: Seconds after which trying again may help; None when it will not.
    """

    code = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after


class InvalidArgument(StoreError):
    """The request can never work, whatever the state of the store."""

    code = "INVALID_ARGUMENT"


class NotFound(StoreError):
    """Something that the request names does not exist."""

    code = "NOT_FOUND"


class AlreadyExists(StoreError):
    """The id of a create is taken by something else."""

    code = "ALREADY_EXISTS"


class FailedPrecondition(StoreError):
    """The store is not in the state that the request needs."""

    code = "FAILED_PRECONDITION"


class OutOfRange(StoreError):
    """A cursor points to a time that the store no longer remembers."""

    code = "OUT_OF_RANGE"


class Aborted(StoreError):
    """Somebody else was faster; read again and decide anew."""

    code = "ABORTED"


class ResourceExhausted(StoreError):
    """A bound was reached."""

    code = "RESOURCE_EXHAUSTED"


class Unavailable(StoreError):
    """The store cannot be reached, or is shutting down."""

    code = "UNAVAILABLE"


class DeadlineExceeded(StoreError):
    """The answer did not come in time. A write may have happened."""

    code = "DEADLINE_EXCEEDED"


class Unauthenticated(StoreError):
    """The caller did not say who it is."""

    code = "UNAUTHENTICATED"


class PermissionDenied(StoreError):
    """The caller may not do this."""

    code = "PERMISSION_DENIED"


class Unimplemented(StoreError):
    """The server does not know this call: it is older than the client, or no store at all."""

    code = "UNIMPLEMENTED"


class Internal(StoreError):
    """The store failed; its log says how."""

    code = "INTERNAL"


BY_CODE: Mapping[str, type[StoreError]] = {error.code: error for error in StoreError.__subclasses__()}
"""The error class of each status code that the contract uses."""
