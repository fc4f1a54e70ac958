"""Stores behind the legacy REST API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from connect_calls import Caller
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


@pytest_asyncio.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """Sends what a test sends, and hangs up with it."""
    async with httpx.AsyncClient(timeout=20) as opened:
        yield opened


@pytest.fixture
def caller(rest: Rest, client: httpx.AsyncClient) -> Caller:
    """Calls each kind of store."""
    return Caller(rest.url, client)


@pytest.fixture
def local(local_rest: Rest, client: httpx.AsyncClient) -> Caller:
    """Calls a store in memory: for what has nothing to do with the kind of store."""
    return Caller(local_rest.url, client)
