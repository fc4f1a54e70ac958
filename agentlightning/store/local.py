"""Stores whose rules run in this process."""

from __future__ import annotations

from typing import NoReturn

from agentlightning.store.engine.engine import Engine
from agentlightning.store.face import StoreFace


class LocalStore(StoreFace):
    """A store over an engine of this process.

    Args:
        engine: The engine; closed with the store.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.engine = engine

    def close_now(self) -> None:
        """End all waits and let go of the data."""
        self.engine.close()

    async def close(self) -> None:
        """End all waits and let go of the data."""
        self.close_now()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} belongs to its process and cannot be sent to another one. Serve it with "
            "LightningStoreServer(store, host, port) and send a LightningStoreClient."
        )
