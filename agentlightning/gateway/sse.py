"""Server-sent events, cut out of the bytes of a stream as they arrive."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

EVENT_STREAM: Final = "text/event-stream"
"""The content type of such a stream."""

_END: Final = re.compile(rb"\r?\n\r?\n")
_DATA: Final = re.compile(rb"^data: ?([^\r\n]*)", re.MULTILINE)


@dataclass(frozen=True)
class ServerEvent:
    """One event."""

    raw: bytes
    """Its bytes, the blank line at its end included."""

    @property
    def data(self) -> bytes:
        """The data, lines joined as the standard says."""
        return b"\n".join(_DATA.findall(self.raw))

    @property
    def is_done(self) -> bool:
        """Whether this is the `[DONE]` by which streams of OpenAI's API end."""
        return self.data.strip() == b"[DONE]"

    def document(self) -> dict[str, Any] | None:
        """Returns the JSON object in the data; None if there is none."""
        try:
            document = json.loads(self.data)
        except ValueError:
            return None
        return document if isinstance(document, dict) else None

    def with_data(self, data: bytes) -> bytes:
        """Returns the bytes of the event with other data; those of an event with several lines of data unchanged."""
        found = list(_DATA.finditer(self.raw))
        if len(found) != 1:
            return self.raw
        start, end = found[0].span(1)
        return self.raw[:start] + data + self.raw[end:]


def event(document: dict[str, Any], name: str | None = None) -> bytes:
    """Returns the bytes of an event that carries a JSON object."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(document, separators=(',', ':'))}\n\n".encode()


class EventSplitter:
    """Cuts the events out of chunks that come as they come."""

    def __init__(self) -> None:
        self.rest = b""
        """The beginning of the event that is not complete yet."""

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """Returns the events that `chunk` completes."""
        # An end that straddles chunks begins at most three bytes before this one.
        search_from = max(0, len(self.rest) - 3)
        data = self.rest + chunk
        events: list[ServerEvent] = []
        start = 0
        while match := _END.search(data, max(start, search_from)):
            events.append(ServerEvent(data[start : match.end()]))
            start = match.end()
        self.rest = data[start:]
        return events
