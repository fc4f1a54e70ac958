"""`SqliteLightningStore`: a store in a file."""

from __future__ import annotations

from pathlib import Path

from agentlightning.store.engine.engine import Engine
from agentlightning.store.local import LocalStore
from agentlightning.store.storage.base import DEFAULT_DURABILITY, Durability
from agentlightning.store.storage.sqlite import SqliteStorage


class SqliteLightningStore(LocalStore):
    """A store in one SQLite file, owned by this process: what was answered is still there after a crash.

    Args:
        path: The file; created when it does not exist. Its folder must exist.
        durability: What every answered write survives: a `power-cut`; the `crash` of this process, which is faster; or
            `none`, which promises no more than that and may lose the file to a power cut.

    Raises:
        StoreError: The file cannot be opened, is no store, is damaged, or another process owns it.
    """

    def __init__(self, path: str | Path, *, durability: Durability = DEFAULT_DURABILITY) -> None:
        super().__init__(Engine(SqliteStorage(path, durability)))
