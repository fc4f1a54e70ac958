"""Servers in processes of their own, and connections to them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from store_process import Connect, StartServer, StoreProcess

from agentlightning.store.engine.engine import Engine
from agentlightning.store.opening import open_engine
from agentlightning.store.remote.api import RemoteApi, connect
from agentlightning.store.server.server import StoreServer


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Starts servers, which are ended with the test."""
    started: list[StoreProcess] = []

    def start(store: str = "memory://", **settings: Any) -> StoreProcess:
        server = StoreProcess(store, **settings)
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        if server.is_running:
            server.kill()


@pytest.fixture(scope="module")
def server() -> Iterator[StoreProcess]:
    """A server on memory that the tests of a file share."""
    process = StoreProcess()
    process.start()
    yield process
    process.kill()


@pytest.fixture
def channel(server: StoreProcess) -> Iterator[grpc.Channel]:
    """A channel of grpcio itself to the shared server."""
    with grpc.insecure_channel(server.address) as opened:
        yield opened


@pytest_asyncio.fixture
async def connect_to() -> AsyncIterator[Connect]:
    """Makes clients, which are closed with the test."""
    made: list[RemoteApi] = []

    def make(address: str, **settings: Any) -> RemoteApi:
        made.append(connect(address, **settings))
        return made[-1]

    yield make
    for api in made:
        await api.close()


@pytest_asyncio.fixture
async def engine() -> AsyncIterator[Engine]:
    """An engine of this process, to look into."""
    opened = open_engine("memory://")
    yield opened
    opened.close()


@pytest_asyncio.fixture
async def served(engine: Engine) -> AsyncIterator[StoreServer]:
    """The engine of this process on a port."""
    opened = StoreServer(engine, port=0)
    await opened.start()
    yield opened
    await opened.stop(0.5)
