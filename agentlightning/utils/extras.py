"""Optional packages, and what to install for them."""

from __future__ import annotations

import importlib
import importlib.util


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
            raise ImportError(_missing(what, extra, package)) from error


def expect_package(what: str, extra: str, package: str) -> None:
    """Checks what `require_packages` does for a package that is not to be imported here.

    Raises:
        ImportError: It is not installed; the message says how to install it.
    """
    if importlib.util.find_spec(package) is None:
        raise ImportError(_missing(what, extra, package))


def _missing(what: str, extra: str, package: str) -> str:
    return f"{what} needs the package {package}: pip install 'agentlightning-grpc[{extra}]'"
