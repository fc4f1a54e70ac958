"""Client and server of a store, under the path by which older code imports them."""

from __future__ import annotations

from agentlightning.store.client import LightningStoreClient
from agentlightning.store.server import LightningStoreServer

__all__ = ["LightningStoreClient", "LightningStoreServer"]
