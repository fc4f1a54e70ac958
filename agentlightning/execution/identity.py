"""Which store it is that a side of a run reaches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

_CHECK_SECONDS: Final = 60.0
"""How long a process waits for a server that another one has reached before: it may be restarting."""


@dataclass(frozen=True)
class StoreIdentity:
    """A store behind a server, as this process reaches it."""

    address: str
    """Where."""
    store_id: str
    """The identity of its data."""

    async def check(self, store: LightningStore) -> None:
        """Checks that another process reaches the same store.

        An address such as `localhost` can mean two places, with a server at each.

        Args:
            store: What that process, the running one, reaches the store by.

        Raises:
            RuntimeError: It is another store.
        """
        found = await identity_of(store, patience=_CHECK_SECONDS)
        if found is not None and found.store_id != self.store_id:
            raise RuntimeError(
                f"this process was started to work on store {self.store_id} at {self.address}, but it reaches store "
                f"{found.store_id} at {found.address}: another server has that address too, such as that of a second "
                "training. Give each a port of its own, and write 127.0.0.1 and not localhost"
            )


async def identity_of(store: LightningStore, *, patience: float = 5.0) -> StoreIdentity | None:
    """Asks for the identity of a store; None if it is not behind a server.

    Args:
        store: The store.
        patience: Seconds to wait for a server that does not answer.

    Raises:
        Unavailable: The server cannot be reached.
    """
    from agentlightning.store.api import CallContext
    from agentlightning.store.client import LightningStoreClient
    from agentlightning.store.remote.api import connect
    from agentlightning.store.remote.retries import RetryPolicy
    from agentlightning.store.server import LightningStoreServer
    from lightning_store import v1

    request = v1.GetServerInfoRequest()
    if isinstance(store, LightningStoreServer):
        info = await store.store.engine.get_server_info(CallContext(), request)
        return StoreIdentity(store.endpoint, info.store_id)
    if isinstance(store, LightningStoreClient):
        remote = connect(store.server_address, retries=RetryPolicy(connect_seconds=patience))
        try:
            info = await remote.get_server_info(CallContext(), request)
        finally:
            await remote.close()
        return StoreIdentity(f"grpc://{remote.target}", info.store_id)
    return None
