"""Who is told that something is deprecated: the one who can change the line."""

from __future__ import annotations

import inspect
import warnings


def warn_of_use(message: str) -> None:
    """Warns the code that calls the caller, unless it is this package's own.

    Args:
        message: What is deprecated, and what to use.
    """
    frame = inspect.currentframe()
    for _ in range(2):
        frame = frame and frame.f_back
    user = frame.f_globals.get("__name__", "") if frame else ""
    if user.partition(".")[0] != "agentlightning":
        warnings.warn(message, DeprecationWarning, stacklevel=3)
