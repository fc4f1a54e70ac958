"""Fixtures that all tests of the store share."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from postgres import QUICK_FOLDER, SERVER
from stores import VARIANTS, FakeClock, OpenStore, Variant

from agentlightning.store.api import StoreApi


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still until it is told to move."""
    return FakeClock()


@pytest.fixture
def quick_folder() -> Iterator[Path]:
    """A folder for databases, in memory where the system has such a place."""
    with tempfile.TemporaryDirectory(prefix="agentlightning-test-", dir=QUICK_FOLDER) as folder:
        yield Path(folder)
        SERVER.take_back(Path(folder))


@pytest.fixture
def taken_port() -> Iterator[str]:
    """A port that somebody else listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield str(other.getsockname()[1])


@pytest.fixture(params=VARIANTS, ids=str)
def variant(request: pytest.FixtureRequest, quick_folder: Path) -> Variant:
    """Each way in which a store can be kept and reached."""
    kind, transport = request.param
    return Variant(kind, transport, quick_folder)


@pytest_asyncio.fixture
async def store(variant: Variant, clock: FakeClock) -> AsyncIterator[OpenStore]:
    """An empty store whose time stands still."""
    async with variant.open(clock=clock) as opened:
        yield opened


@pytest.fixture
def api(store: OpenStore) -> StoreApi:
    """The calls of an empty store whose time stands still."""
    return store.api


@pytest_asyncio.fixture
async def living(variant: Variant) -> AsyncIterator[OpenStore]:
    """An empty store that goes by real time and looks after its attempts by itself."""
    async with variant.open() as opened:
        yield opened
