"""The REST API of older releases, in front of a store."""

from __future__ import annotations

import importlib


def require_packages() -> None:
    """Checks that what the REST API needs beside this library is installed.

    Raises:
        ImportError: It is not; the message says how to install it.
    """
    for package in ("fastapi", "uvicorn"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ImportError(
                f"the REST API needs the package {package}: pip install 'agentlightning-grpc[rest]'"
            ) from error


def url_of(host: str, port: int) -> str:
    """Returns the URL of what listens on a host and a port."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
