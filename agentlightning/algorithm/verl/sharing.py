"""What several users open together: with the first it opens, with the last it closes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """Something that is open as long as anybody uses it. For one event loop."""

    def __init__(self) -> None:
        """It is closed."""
        self._users = 0
        self._lock = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._value: T | None = None

    @asynccontextmanager
    async def using(self, opened: Callable[[], AbstractAsyncContextManager[T]]) -> AsyncIterator[T]:
        """Keeps it open for the block, and returns what `opened` gave to the first who uses it.

        Args:
            opened: Opens it.
        """
        async with self._lock:
            if self._value is None:
                self._value = await self._stack.enter_async_context(opened())
            value = self._value
            self._users += 1
        try:
            yield value
        finally:
            async with self._lock:
                self._users -= 1
                if not self._users:
                    self._value = None
                    await self._stack.aclose()
