"""Event loops of programs that are this library's own."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs a server like `asyncio.run`, on uvloop where that is installed (the extra `fast`).

    It is for loops that run no code of users', some of which works with asyncio's own loop alone.
    """
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    result: T = uvloop.run(main)
    return result
