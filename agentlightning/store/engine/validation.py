"""What every request must fulfil, whatever the state of the store."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from agentlightning.store.api import LATEST
from agentlightning.store.engine.messages import SECOND, duration_ns, timestamp_ns
from agentlightning.store.errors import InvalidArgument
from agentlightning.store.storage.rows import END_OF_TIME
from lightning_store import v1

_LONGEST_ID = 200
_SHORTEST_LEASE = SECOND
_LONGEST_LEASE = 24 * 3600 * SECOND


def check_id(value: str, field: str) -> str:
    """Return an id that is well formed; `field` is named in the error."""
    if not 1 <= len(value) <= _LONGEST_ID or not value.isprintable() or " " in value or "/" in value:
        raise InvalidArgument(
            f"{field} must be 1 to {_LONGEST_ID} printable characters without spaces and slashes, not {value[:300]!r}.",
            reason="INVALID_ID",
            metadata={"field": field},
        )
    return value


def check_payload(message: Message, field: str) -> None:
    """Check a field that may hold a payload."""
    if message.HasField(field) and not getattr(message, field).content_type:
        raise InvalidArgument(
            f"{field} has no content_type.", reason="PAYLOAD_WITHOUT_CONTENT_TYPE", metadata={"field": field}
        )


def check_config(config: v1.RolloutConfig) -> None:
    """Check limits and retries."""
    for field in ("timeout", "unresponsive_timeout"):
        length = duration_ns(config, field)
        if length is not None and length <= 0:
            raise InvalidArgument(
                f"config.{field} must be longer than zero.", reason="INVALID_CONFIG", metadata={"field": field}
            )
    if config.max_attempts < 0:
        raise InvalidArgument(
            f"config.max_attempts must not be negative, it is {config.max_attempts}.",
            reason="INVALID_CONFIG",
            metadata={"field": "max_attempts"},
        )
    for status in config.retry_on:
        check_known(status, v1.AttemptStatus, "config.retry_on", optional=True)
    kinds = [budget.kind for budget in config.retry_budgets]
    for kind in kinds:
        check_known(kind, v1.AttemptFailureKind, "config.retry_budgets", optional=True)
    if len(set(kinds)) != len(kinds) or v1.ATTEMPT_FAILURE_KIND_UNSPECIFIED in kinds:
        raise InvalidArgument(
            "config.retry_budgets must name each kind of failure at most once, and never UNSPECIFIED.",
            reason="INVALID_CONFIG",
            metadata={"field": "retry_budgets"},
        )
    if any(budget.max_retries < 0 for budget in config.retry_budgets):
        raise InvalidArgument(
            "config.retry_budgets must not be negative.", reason="INVALID_CONFIG", metadata={"field": "retry_budgets"}
        )


def check_known(value: int, enum: type, field: str, *, optional: bool = False) -> None:
    """Check that an enum's value is one that this release knows: others may not be able to read it.

    Args:
        value: The value.
        enum: The enum.
        field: Named in the error.
        optional: Whether it may be UNSPECIFIED.
    """
    if (value == 0 and not optional) or value not in enum.values():  # type: ignore[attr-defined]
        raise InvalidArgument(
            f"{field} has the unknown value {value}.", reason="INVALID_STATUS", metadata={"field": field}
        )


def check_understood(request: Message) -> None:
    """Check that a request which selects has no condition of a newer contract: without it, too much would match."""
    for part in [request, *(value for field, value in request.ListFields() if field.name == "filter")]:
        unknown = UnknownFieldSet(part)
        if len(unknown):
            raise InvalidArgument(
                f"This server is older than its client: its {part.DESCRIPTOR.name} has no field with the number "
                f"{unknown[0].field_number}, and what may narrow a selection must not be ignored.",
                reason="MALFORMED_REQUEST",
            )


def check_attempt_id(value: str) -> str:
    """Return an id that a client may choose for an attempt."""
    if check_id(value, "attempt_id") == LATEST:
        raise InvalidArgument(
            "attempt_id must not be the word latest.", reason="INVALID_ID", metadata={"field": "attempt_id"}
        )
    return value


def lease_ns(message: Message) -> int | None:
    """Return the lease that a request asks for."""
    lease = duration_ns(message, "lease")
    if lease is not None and not _SHORTEST_LEASE <= lease <= _LONGEST_LEASE:
        raise InvalidArgument(
            f"lease must be 1 second to 1 day, not {lease / SECOND} s.",
            reason="INVALID_LEASE",
            metadata={"field": "lease"},
        )
    return lease


def checked_time(message: Message, field: str) -> int | None:
    """Return a field that holds a time that can be stored, in nanoseconds since the epoch; None when it is unset."""
    time = timestamp_ns(message, field)
    if time is None:
        return None
    if not 0 <= getattr(message, field).nanos < SECOND or not -END_OF_TIME <= time <= END_OF_TIME:
        raise InvalidArgument(
            f"{field} must be a time between the years 1678 and 2262.",
            reason="INVALID_TIME",
            metadata={"field": field},
        )
    return time


def check_count(items: Iterable[object], most: int, field: str) -> None:
    """Check the length of a list."""
    count = sum(1 for _ in items)
    if count > most:
        raise InvalidArgument(
            f"{field} has {count} entries; at most {most} are allowed in one call.",
            reason="TOO_MANY_IDS",
            metadata={"field": field},
        )
