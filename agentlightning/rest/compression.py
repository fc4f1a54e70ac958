"""Compressed bodies, which may become much larger than they look."""

from __future__ import annotations

import zlib

from agentlightning.rest.limits import MAX_BODY_BYTES
from agentlightning.store.errors import InvalidArgument, ResourceExhausted, Unimplemented


def too_large() -> ResourceExhausted:
    """Returns the error for a request of more than `MAX_BODY_BYTES`, as it came or unpacked."""
    return ResourceExhausted(
        f"The body has more than {MAX_BODY_BYTES} bytes, as it came or unpacked. Split it.",
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
    if name in ("", "identity"):
        return data
    if name != "gzip":
        raise Unimplemented(
            f"The compression {encoding!r} is not supported; gzip and identity are.", reason="UNKNOWN_COMPRESSION"
        )
    if not data:
        return data
    unpacking = zlib.decompressobj(zlib.MAX_WBITS | 16)  # 16 is for gzip
    try:
        message = unpacking.decompress(data, MAX_BODY_BYTES + 1)
    except zlib.error as error:
        raise InvalidArgument(f"The body is not gzip: {error}", reason="MALFORMED_REQUEST") from error
    if len(message) > MAX_BODY_BYTES:
        raise too_large()
    if not unpacking.eof or unpacking.unused_data:
        raise InvalidArgument("The body is not one whole piece of gzip.", reason="MALFORMED_REQUEST")
    return message
