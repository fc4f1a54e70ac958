"""How commands write what they found: tables for people, JSON for programs."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Final

from agentlightning.cli.exit_codes import ExitCode
from agentlightning.types import Attempt, Rollout

_GAP: Final = "  "
_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR


def to_json(value: Any) -> str:
    """Returns a value as one line of JSON.

    Args:
        value: Made of models, dictionaries, lists and scalars. What JSON has no number for (NaN, infinity) is null.
    """
    try:
        text = json.dumps(value, default=dict, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=False)
    # A string of the user may hold half of a surrogate pair, which only an escape can carry.
    return text if _is_unicode(text) else json.dumps(json.loads(text))


def document_of(rollout: Rollout, attempts: Sequence[Attempt]) -> dict[str, object]:
    """Returns a rollout as programs get it that want all of its attempts, not the latest alone."""
    return {**{name: value for name, value in rollout if name != "attempt"}, "attempts": list(attempts)}


def print_json(value: Any) -> None:
    """Prints a value as one line of JSON."""
    print(to_json(value))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints rows in columns.

    Numbers stand to the right. Characters that would move the cursor are replaced. The last column is cut at the width
    of the terminal; in a file or a pipe nothing is cut.
    """
    cells = [[plain("-" if cell is None else str(cell)) for cell in row] for row in rows]
    to_the_right = [_is_of_numbers([row[at] for row in rows]) for at in range(len(headings))]
    widths = [max(map(_width, column)) for column in zip(headings, *cells, strict=True)]
    limit = shutil.get_terminal_size().columns if sys.stdout.isatty() else math.inf
    for line in [list(headings), *cells]:
        padded = [
            " " * (width - _width(cell)) + cell if right else cell + " " * (width - _width(cell))
            for cell, width, right in zip(line, widths, to_the_right, strict=True)
        ]
        print(_cut(_GAP.join(padded).rstrip(), limit))


def print_fields(fields: Mapping[str, object]) -> None:
    """Prints names and values, one below the other; those that are None are left out."""
    width = max(map(len, fields))
    for name, value in fields.items():
        if value is not None:
            print(f"{name:<{width}}{_GAP}{plain(str(value))}")


def plain(text: str) -> str:
    """Returns a text without characters that would move the cursor or colour the terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def ago(moment: float | None) -> str | None:
    """Returns how long ago a moment was, in seconds since the epoch; None for none."""
    return None if moment is None else f"{span_of(time.time() - moment)} ago"


def span_of(seconds: float) -> str:
    """Returns a time span in the two units that matter."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f}s"
    whole = int(seconds)
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m{whole % _MINUTE:02}s"
    if whole < _DAY:
        return f"{whole // _HOUR}h{whole % _HOUR // _MINUTE:02}m"
    return f"{whole // _DAY}d{whole % _DAY // _HOUR:02}h"


def size_of(number: float) -> str:
    """Returns a number of bytes in the unit that fits it."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


def confirmed(prog: str, question: str, *, is_certain: bool) -> ExitCode | None:
    """Asks before something is done that is hard to take back.

    Args:
        prog: The words that called the command, for messages.
        question: What is about to be done.
        is_certain: True does not ask.

    Returns:
        None if it is to be done, else the exit code.
    """
    if is_certain:
        return None
    if not sys.stdin.isatty():
        print(f"{prog}: {question} Say --yes, since there is nobody to ask here.", file=sys.stderr)
        return ExitCode.USAGE
    print(f"{plain(question)} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return None
    print(f"{prog}: nothing was done.", file=sys.stderr)
    return ExitCode.ERROR


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (str, int, type(None))):
        return value
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return {key: _finite(item) for key, item in dict(value).items()}


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_of_numbers(column: Sequence[object]) -> bool:
    cells = [cell for cell in column if cell is not None]
    return bool(cells) and all(isinstance(cell, (int, float)) for cell in cells)


def _width(text: str) -> int:
    return len(text) if text.isascii() else sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _cut(line: str, limit: float) -> str:
    if _width(line) <= limit:
        return line
    line = line[: int(limit)]  # no character is narrower than one column
    while _width(line) >= limit:
        line = line[:-1]
    return f"{line}…"
