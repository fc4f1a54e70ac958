"""Clients that go away before they are answered."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request
from starlette.types import Receive

Item = TypeVar("Item")


async def while_present(request: Request, work: Coroutine[Any, Any, Item], otherwise: Item) -> Item:
    """Awaits something that may take long, and gives it up when the client goes away.

    Args:
        request: The request, whose body has been read.
        work: What to await.
        otherwise: What to return, to nobody, when it was given up.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(departure(request.receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else otherwise
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.wait({working, leaving})


async def departure(receive: Receive) -> None:
    """Returns when the client of a request has gone, whose body has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass
