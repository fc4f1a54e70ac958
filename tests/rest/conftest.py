"""Stores behind the legacy REST API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from rest_calls import Rest, Switchboard
from stores import FakeClock, OpenStore, Variant

from agentlightning.store.face import StoreFace


@pytest.fixture(scope="session")
def switchboard() -> Iterator[Switchboard]:
    """A server that all tests share."""
    shared = Switchboard()
    asyncio.run(shared.server.start())
    yield shared
    asyncio.run(shared.server.stop())


@pytest.fixture
def rest(store: OpenStore, switchboard: Switchboard) -> Iterator[Rest]:
    """The REST API in front of each kind of store, whose time stands still."""
    face = StoreFace(store.api)
    with switchboard.serving(face) as url:
        yield Rest(url, store, face)


@pytest_asyncio.fixture
async def local_rest(quick_folder: Path, clock: FakeClock, switchboard: Switchboard) -> AsyncIterator[Rest]:
    """The REST API in front of a store in memory, whose time stands still."""
    async with Variant("memory", "in-process", quick_folder).open(clock=clock) as opened:
        face = StoreFace(opened.api)
        with switchboard.serving(face) as url:
            yield Rest(url, opened, face)
