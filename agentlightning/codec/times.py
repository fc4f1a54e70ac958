"""Seconds as `Timestamp` and `Duration` messages.

A time since the epoch of our days comes back as the same float, and so does anything of at most nine decimals.
"""

from __future__ import annotations

import math

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from agentlightning.types.tracer import NANOS, seconds_to_nanos

_FIRST_SECOND = -62_135_596_800  # 0001-01-01, the limits of Timestamp
_LAST_SECOND = 253_402_300_799
_LONGEST_SECONDS = 315_576_000_000  # the limit of Duration


def nanos_of_seconds(seconds: float, path: str) -> int:
    """Returns `seconds` as a whole number of nanoseconds.

    Raises:
        ValueError: It is not a finite number; the message begins with `path`.
    """
    if not math.isfinite(seconds):
        raise ValueError(f"{path} must be a finite number of seconds, not {seconds}")
    return seconds_to_nanos(seconds)


def to_timestamp(seconds: float, path: str) -> Timestamp:
    """Encodes a time given in seconds since the epoch.

    Raises:
        ValueError: It is not a time between the years 1 and 9999; the message begins with `path`.
    """
    whole, nanos = divmod(nanos_of_seconds(seconds, path), NANOS)
    if not _FIRST_SECOND <= whole <= _LAST_SECOND:
        raise ValueError(f"{path} must be in seconds since the epoch; {seconds} is out of range")
    return Timestamp(seconds=whole, nanos=nanos)


def from_timestamp(message: Timestamp) -> float:
    """Returns the time in seconds since the epoch."""
    return (message.seconds * NANOS + message.nanos) / NANOS


def to_duration(seconds: float, path: str) -> Duration:
    """Encodes a length of time given in seconds.

    Raises:
        ValueError: It is not finite or longer than 10,000 years; the message begins with `path`.
    """
    nanos = nanos_of_seconds(seconds, path)
    if abs(nanos) > _LONGEST_SECONDS * NANOS:
        raise ValueError(f"{path} must be in seconds; {seconds} is out of range")
    # Both parts carry the sign.
    whole, rest = divmod(abs(nanos), NANOS)
    return Duration(seconds=whole, nanos=rest) if nanos >= 0 else Duration(seconds=-whole, nanos=-rest)


def from_duration(message: Duration) -> float:
    """Returns the length of time in seconds."""
    return (message.seconds * NANOS + message.nanos) / NANOS
