"""Compressed bodies, which may become much larger than they look."""

from __future__ import annotations

import gzip
import io
import zlib

from agentlightning.rest.limits import MAX_BODY_BYTES
from agentlightning.store.errors import InvalidArgument, ResourceExhausted, Unimplemented


def too_large() -> ResourceExhausted:
    """Returns the error for a request of more than `MAX_BODY_BYTES`, as it came or unpacked."""
    return ResourceExhausted(
        f"The request has more than {MAX_BODY_BYTES} bytes. Split it.",
        reason="MESSAGE_TOO_LARGE",
        metadata={"limit": str(MAX_BODY_BYTES)},
    )


def unpack(data: bytes, encoding: str) -> bytes:
    """Returns what was sent as it was before it was compressed. No more than `MAX_BODY_BYTES` are unpacked.

    Args:
        data: A body, or a message of one, as it came.
        encoding: What the header says of it.

    Raises:
        InvalidArgument: It is not compressed as the header says.
        ResourceExhausted: It is too large.
        Unimplemented: The header names another compression than gzip.
    """
    name = encoding.strip().lower()
    if name in ("", "identity") or not data:
        return data
    if name != "gzip":
        raise Unimplemented(
            f"The compression {encoding!r} is not supported; gzip and identity are.", reason="UNKNOWN_COMPRESSION"
        )
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as unpacked:
            message = unpacked.read(MAX_BODY_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidArgument(
            f"The request is not compressed with gzip as it should be: {error}.", reason="MALFORMED_REQUEST"
        ) from error
    if len(message) > MAX_BODY_BYTES:
        raise too_large()
    return message
