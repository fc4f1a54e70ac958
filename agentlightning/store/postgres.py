"""`PostgresLightningStore`: a store in a PostgreSQL database."""

from __future__ import annotations

from agentlightning.store.local import LocalStore
from agentlightning.store.opening import open_postgres
from agentlightning.store.storage.base import DEFAULT_DURABILITY, Durability


class PostgresLightningStore(LocalStore):
    """A store in a PostgreSQL database, which any number of processes may use at once, as stores and as servers.

    Args:
        url: `postgresql://user@host/database`, with the parameters that PostgreSQL's own clients take. Its tables are
            made in the schema `agentlightning` when they do not exist.
        durability: What every answered write survives: a `power-cut`, also of the database's machine; or the `crash`
            of this process, which is faster, and may lose the last few when the database itself ends.

    Raises:
        ImportError: The extra `postgres` is not installed.
        StoreError: The database cannot be reached, is too old, or was made by a newer release.
    """

    def __init__(self, url: str, *, durability: Durability = DEFAULT_DURABILITY) -> None:
        super().__init__(open_postgres(url, durability))
