"""What the exit codes of `agl` mean."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ended."""

    OK = 0
    """It did what it was asked."""
    ERROR = 1
    """It could not, or not all of it; stderr says why."""
    USAGE = 2
    """The command line is wrong; nothing was done."""
    TIMEOUT = 3
    """The time of `agl wait` was up before everything had finished."""
    NOT_INSTALLED = 4
    """A package that the command needs is not installed; stderr says which."""
    INTERRUPTED = 130
    """Ctrl+C."""
    CLOSED_PIPE = 141
    """Whoever read the output went away, such as `head`."""
