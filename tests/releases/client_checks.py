"""What shows that a server asks an old store client for no repetition. Runs in the environments of old releases."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import Any

import aiohttp


class Complaints(logging.Handler):
    """What the client swallows and logs: the errors of its getters, after it has asked four times in vain."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record.getMessage())


async def refused(call: Awaitable[Any]) -> None:
    """Checks that a call is refused for good: only then the client does not ask again."""
    try:
        await call
    except aiohttp.ClientResponseError as error:
        if 400 <= error.status < 500 and error.status != 408:
            return
        raise
    raise AssertionError("the call was not refused")
