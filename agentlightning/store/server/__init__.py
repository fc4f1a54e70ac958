"""The store's gRPC server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentlightning.store.server.lightning_store_server import LightningStoreServer

__all__ = ["LightningStoreServer"]


def __getattr__(name: str) -> Any:
    # Only the Python face needs pydantic; the server as a process of its own does without.
    if name == "LightningStoreServer":
        from agentlightning.store.server.lightning_store_server import LightningStoreServer

        return LightningStoreServer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
