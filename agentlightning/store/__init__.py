"""The store: its Python face, its rules, its storages, its server and its client.

What is named here is loaded when it is first used: the client needs no server, and the base class neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentlightning.removed import raise_if_removed
from agentlightning.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore as LightningStore
    from agentlightning.store.base import LightningStoreCapabilities as LightningStoreCapabilities
    from agentlightning.store.base import LightningStoreStatistics as LightningStoreStatistics
    from agentlightning.store.blocking import BlockingStore as BlockingStore
    from agentlightning.store.client import LightningStoreClient as LightningStoreClient
    from agentlightning.store.memory import InMemoryLightningStore as InMemoryLightningStore
    from agentlightning.store.postgres import PostgresLightningStore as PostgresLightningStore
    from agentlightning.store.server import LightningStoreServer as LightningStoreServer
    from agentlightning.store.sqlite import SqliteLightningStore as SqliteLightningStore
    from agentlightning.store.threading import LightningStoreThreaded as LightningStoreThreaded
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "agentlightning.store.base": (
                "LightningStore",
                "LightningStoreCapabilities",
                "LightningStoreStatistics",
            ),
            "agentlightning.store.blocking": ("BlockingStore",),
            "agentlightning.store.client": ("LightningStoreClient",),
            "agentlightning.store.memory": ("InMemoryLightningStore",),
            "agentlightning.store.postgres": ("PostgresLightningStore",),
            "agentlightning.store.server": ("LightningStoreServer",),
            "agentlightning.store.sqlite": ("SqliteLightningStore",),
            "agentlightning.store.threading": ("LightningStoreThreaded",),
        },
        lambda name: raise_if_removed(f"{__name__}.{name}"),
    )
