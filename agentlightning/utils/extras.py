"""Optional packages, and what to install for them."""

from __future__ import annotations

import importlib


def require_packages(what: str, extra: str, *packages: str) -> None:
    """Checks that packages of an extra of this library are installed.

    Args:
        what: What needs them; begins the sentence of the error.
        extra: The extra that brings them.
        *packages: What to import.

    Raises:
        ImportError: One is not installed; the message says how to install it.
    """
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ImportError(
                f"{what} needs the package {package}: pip install 'agentlightning-grpc[{extra}]'"
            ) from error
