"""What clients asked of a store and what they were answered, written down as it happens.

Each client process has a file of its own, a line before each call and one after it, so that what a killed client had
done is known too. All times are of one monotonic clock, which the processes of a machine share.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Call:
    """A call of a client. Without an answer, nobody knows whether the store carried it out."""

    client: str
    kind: str
    asked: dict[str, Any]
    began: float
    ended: float = float("inf")
    answer: Any = None
    """What the client wrote down of the answer; None if there was none."""

    @property
    def is_answered(self) -> bool:
        """True when the client was answered."""
        return self.ended < float("inf")


@dataclass
class Answer:
    """Where a client notes what it was answered, before the call counts as over."""

    noted: Any = field(default=None)


class Journal:
    """Writes the history of one client.

    Args:
        path: Its file.
        client: Its name.
    """

    def __init__(self, path: Path, client: str) -> None:
        self._file = path.open("a", buffering=1)
        self._client = client
        self._calls = 0

    @contextmanager
    def call(self, kind: str, **asked: Any) -> Iterator[Answer]:
        """Note a call that is made inside; one that raises stays without an answer."""
        self._calls += 1
        number = self._calls
        self._write(number=number, client=self._client, kind=kind, asked=asked, began=time.monotonic())
        answer = Answer()
        yield answer
        self._write(number=number, answer=answer.noted, ended=time.monotonic())

    def close(self) -> None:
        """Write no more."""
        self._file.close()

    def _write(self, **line: Any) -> None:
        self._file.write(json.dumps(line) + "\n")


def read_history(paths: Iterable[Path]) -> list[Call]:
    """Return the calls of all clients in the order in which they began."""
    calls: list[Call] = []
    for path in paths:
        by_number: dict[int, Call] = {}
        for line in path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # the client was killed while it wrote
                continue
            number = entry.pop("number")
            if "began" in entry:
                by_number[number] = Call(**entry)
            else:
                by_number[number].ended, by_number[number].answer = entry["ended"], entry["answer"]
        calls += by_number.values()
    return sorted(calls, key=lambda call: call.began)
