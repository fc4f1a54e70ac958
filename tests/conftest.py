"""Fixtures that all tests of the store share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from stores import VARIANTS, FakeClock, OpenStore, Variant

from agentlightning.store.api import StoreApi


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still until it is told to move."""
    return FakeClock()


@pytest.fixture(params=VARIANTS, ids=str)
def variant(request: pytest.FixtureRequest, tmp_path: Path) -> Variant:
    """Each way in which a store can be kept and reached."""
    kind, transport = request.param
    return Variant(kind, transport, tmp_path)


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
