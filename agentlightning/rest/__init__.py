"""The REST API of older releases, in front of a store."""

from __future__ import annotations

from agentlightning.utils import extras


def require_packages() -> None:
    """Checks that what the REST API needs beside this library is installed.

    Raises:
        ImportError: It is not; the message says how to install it.
    """
    extras.require_packages("the REST API", "rest", "fastapi", "uvicorn")
