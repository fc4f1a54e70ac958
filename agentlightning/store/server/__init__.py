"""The store's gRPC server."""

from __future__ import annotations

from agentlightning.store.server.lightning_store_server import LightningStoreServer

__all__ = ["LightningStoreServer"]
