"""A store as verl's processes reach it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agentlightning.store.base import LightningStore
from agentlightning.store.client import LightningStoreClient
from agentlightning.store.local import LocalStore
from agentlightning.store.server import LightningStoreServer


@asynccontextmanager
async def store_address(store: LightningStore) -> AsyncIterator[str]:
    """Returns the address of a store for the block; serves one of this process, on this machine, as long as that runs.

    Raises:
        TypeError: It is of a class that has no server.
    """
    if isinstance(store, LightningStoreClient):
        yield store.server_address
    elif isinstance(store, LightningStoreServer):
        yield store.endpoint
    elif isinstance(store, LocalStore):
        server = LightningStoreServer(store, "127.0.0.1", 0)
        await server.start()
        try:
            yield server.endpoint
        finally:
            await server.stop()
    else:
        raise TypeError(
            f"verl's processes cannot reach a {type(store).__name__}: use a LightningStoreClient of a store server"
        )
