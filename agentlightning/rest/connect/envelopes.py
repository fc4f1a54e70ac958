"""The envelopes that messages of streams have."""

from __future__ import annotations

import struct
from typing import Final

from agentlightning.rest.compression import unpack
from agentlightning.store.errors import InvalidArgument

_COMPRESSED: Final = 1
_END: Final = 2
_PREFIX: Final = struct.Struct(">BI")


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
