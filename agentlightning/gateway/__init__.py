"""The model gateway: forwards model calls to backends, and writes each as a span of the attempt that made it."""

from __future__ import annotations

from agentlightning.utils import extras


def require_packages() -> None:
    """Checks that what the gateway needs beside this library is installed.

    Raises:
        ImportError: It is not; the message says how to install it.
    """
    extras.require_packages("the model gateway", "gateway", "httpx", "starlette", "uvicorn")
