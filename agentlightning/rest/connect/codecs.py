"""The two forms in which messages travel: protobuf's JSON and its binary form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from agentlightning.store.errors import InvalidArgument
from agentlightning.store.server.servicers import parse

M = TypeVar("M", bound=Message)


def to_json(message: Message) -> bytes:
    """Returns a message as JSON: 64-bit integers as strings, bytes in base64, fields at their default left out."""
    return json_format.MessageToJson(message, indent=None, ensure_ascii=False).encode()


def from_json(kind: type[M], data: bytes) -> M:
    """Returns the message that a JSON object says. Fields may have the names of the contract or those of JSON.

    Raises:
        InvalidArgument: It is no such object. A field that the message does not have is refused too: a typo must not
            look like a field that was left out.
    """
    try:
        if data.lstrip(b" \t\r\n")[:1] != b"{":  # the parser takes an empty list for an empty message
            raise json_format.ParseError("it is no JSON object, {} at least")
        return json_format.Parse(data, kind())
    except (json_format.ParseError, UnicodeDecodeError) as error:
        raise InvalidArgument(
            f"The request is no {kind.DESCRIPTOR.name}: {error}", reason="MALFORMED_REQUEST"
        ) from error


@dataclass(frozen=True)
class Codec:
    """A form in which messages travel."""

    name: str
    """Its name in media types."""
    encode: Callable[[Message], bytes]
    """Writes a message."""
    decode: Callable[[type[Message], bytes], Message]
    """Reads a message; raises `InvalidArgument` for what is none."""

    def media_type(self, *, streams: bool) -> str:
        """Returns the media type of a body: one message, or a stream of envelopes."""
        return f"application/connect+{self.name}" if streams else f"application/{self.name}"


JSON: Final = Codec("json", to_json, from_json)
PROTO: Final = Codec("proto", lambda message: message.SerializeToString(), parse)
CODECS: Final = (JSON, PROTO)
