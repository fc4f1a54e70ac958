"""Passing an answer on: what goes out at once, and what waits until the call is recorded."""

from __future__ import annotations

import json
from collections.abc import Callable

from agentlightning.gateway.apis.base import Document, Reader
from agentlightning.gateway.json_edit import Rules, edited
from agentlightning.gateway.sse import EventSplitter, ServerEvent


class Rewriting:
    """Makes what the agent gets of what the backend sent."""

    def document(self, raw: bytes, document: Document, status: int) -> bytes:
        """Returns what the agent gets of an answer that came whole."""
        raise NotImplementedError

    def event(self, event: ServerEvent, document: Document | None) -> bytes:
        """Returns what the agent gets of an event; None is one whose data is no JSON object."""
        raise NotImplementedError

    def end(self, rest: bytes) -> bytes:
        """Returns what the agent gets after the last event; `rest` is what came of another one."""
        return rest


class Hiding(Rewriting):
    """Leaves out what the agent did not ask for.

    Args:
        rules: What is left out of documents and events.
        drops: Whether an event is left out whole.
    """

    def __init__(self, rules: Rules, drops: Callable[[Document], bool]) -> None:
        self._rules = rules
        self._drops = drops

    def document(self, raw: bytes, document: Document, status: int) -> bytes:
        return edited(raw, self._rules)

    def event(self, event: ServerEvent, document: Document | None) -> bytes:
        if document is None:
            return event.raw
        return b"" if self._drops(document) else event.with_data(edited(event.data, self._rules))


class StreamRelay:
    """Reads a stream of events while it passes on.

    From the first event on that the agent may take for the end, everything is held back. Without rewriting, every byte
    goes out with the chunk that it came in; with it, events go out when they are complete.

    Args:
        reader: Reads the events.
        rewriting: Makes what the agent gets; None passes the bytes on as they are.
    """

    def __init__(self, reader: Reader, rewriting: Rewriting | None) -> None:
        self.held = b""
        """What has not gone out yet."""
        self.complete = False
        """Whether the answer has said that it has ended."""
        self._reader = reader
        self._rewriting = rewriting
        self._splitter = EventSplitter()

    def feed(self, chunk: bytes) -> bytes:
        """Takes the next bytes of the backend and returns those that may go out now."""
        passed = len(self._splitter.rest)
        events = self._splitter.feed(chunk)
        if self._rewriting is None:
            return self._pass_on(chunk, events, passed)
        out = []
        for event in events:
            document = self._read(event)
            made = self._rewriting.event(event, document)
            if self.complete:
                self.held += made
            else:
                out.append(made)
        return b"".join(out)

    def finish(self) -> None:
        """Takes the end of the stream."""
        if self._rewriting is not None:
            self.held += self._rewriting.end(self._splitter.rest)

    def _pass_on(self, chunk: bytes, events: list[ServerEvent], passed: int) -> bytes:
        cut = 0 if self.complete else len(chunk)
        # Of the first event, `passed` bytes came with earlier chunks and are out.
        begin = -passed
        for event in events:
            was_complete = self.complete
            self._read(event)
            if self.complete and not was_complete:
                cut = max(begin, 0)
            begin += len(event.raw)
        self.held += chunk[cut:]
        return chunk[:cut]

    def _read(self, event: ServerEvent) -> Document | None:
        document = event.document()
        if document is not None:
            self.complete = self._reader.read_event(document) or self.complete
        elif event.is_done:
            self.complete = True
        return document


def parsed(raw: bytes) -> Document | None:
    """Returns the JSON object that a body is; None if it is none."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
