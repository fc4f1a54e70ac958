"""Calls that are made together with others of their time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST: Final = 256


class Batched(Generic[Item, Result]):
    """Makes one call of those that are waiting while the call before is under way, so that none waits for company.

    Args:
        call: Takes items and returns a result for each. When it fails for several, each is tried alone.
    """

    def __init__(self, call: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]]) -> None:
        self._call = call
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._work: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Result:
        """Returns the result for an item, or raises what the call raised. Cancelling it does not call the item off."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
            try:
                results = await self._call([item for item, _ in batch])
            except Exception:  # noqa: BLE001 - each caller gets its own
                await asyncio.gather(*(self._run_alone(item, future) for item, future in batch))
            else:
                for (_, future), result in zip(batch, results, strict=True):
                    _settle(future, result)

    async def _run_alone(self, item: Item, future: asyncio.Future[Result]) -> None:
        try:
            _settle(future, (await self._call([item]))[0])
        except Exception as error:  # noqa: BLE001 - handed over, not swallowed
            if not future.done():
                future.set_exception(error)


def _settle(future: asyncio.Future[Result], result: Result) -> None:
    # Whoever waited may have gone.
    if not future.done():
        future.set_result(result)
