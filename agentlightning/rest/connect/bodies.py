"""What stands around a message in a body: compression, and the envelopes of streams."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from typing import Final

from agentlightning.rest.limits import MAX_BODY_BYTES
from agentlightning.store.errors import InvalidArgument, ResourceExhausted, Unimplemented

_COMPRESSED: Final = 1
_END: Final = 2
_PREFIX: Final = struct.Struct(">BI")


def too_large() -> ResourceExhausted:
    """Returns the error for a request of more than `MAX_BODY_BYTES`, as it came or unpacked."""
    return ResourceExhausted(
        f"The request has more than {MAX_BODY_BYTES} bytes. Split it.",
        reason="MESSAGE_TOO_LARGE",
        metadata={"limit": str(MAX_BODY_BYTES)},
    )


def unpack(data: bytes, encoding: str) -> bytes:
    """Returns a message as it was before it was compressed. What becomes larger than `MAX_BODY_BYTES` is not unpacked.

    Args:
        data: The message as it came.
        encoding: What the header says of it.

    Raises:
        InvalidArgument: It is not compressed as the header says.
        ResourceExhausted: It is too large.
        Unimplemented: The header names another compression than gzip.
    """
    if encoding in ("", "identity") or not data:
        return data
    if encoding != "gzip":
        raise Unimplemented(
            f"The compression {encoding!r} is not supported; gzip and identity are.", reason="UNKNOWN_COMPRESSION"
        )
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as unpacked:
            message = unpacked.read(MAX_BODY_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise _malformed(f"it is not compressed with gzip: {error}") from error
    if len(message) > MAX_BODY_BYTES:
        raise too_large()
    return message


def open_envelope(body: bytes, encoding: str) -> bytes:
    """Returns the message of a body that is one envelope: what a call has that is answered by a stream.

    Args:
        body: The whole body.
        encoding: The compression that the header names.

    Raises:
        InvalidArgument: It is not one envelope.
        ResourceExhausted: The message is too large.
        Unimplemented: The message is compressed otherwise than with gzip.
    """
    if len(body) < _PREFIX.size:
        raise _malformed("its body is no envelope: a byte of flags, four of the length, the message")
    flags, length = _PREFIX.unpack_from(body)
    message = body[_PREFIX.size :]
    if len(message) != length:
        raise _malformed(f"its envelope announces {length} bytes, and {len(message)} follow; send one message")
    if flags & ~_COMPRESSED:
        raise _malformed(f"its envelope has the flags {flags}, which a request cannot have")
    if not flags:
        return message
    if encoding in ("", "identity"):
        raise _malformed("its envelope is said to be compressed, and no header says how")
    return unpack(message, encoding)


def envelope(message: bytes, *, ends: bool = False) -> bytes:
    """Returns a message of a stream in its envelope; `ends` marks the last one, which says how the call ended."""
    return _PREFIX.pack(_END if ends else 0, len(message)) + message


def _malformed(fault: str) -> InvalidArgument:
    return InvalidArgument(f"The request cannot be read: {fault}.", reason="MALFORMED_REQUEST")
