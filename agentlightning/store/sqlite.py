"""`SqliteLightningStore`: a store in a file."""

from __future__ import annotations

from pathlib import Path

from agentlightning.store.engine.engine import Engine
from agentlightning.store.local import LocalStore
from agentlightning.store.storage.sqlite import SqliteStorage, Synchronous


class SqliteLightningStore(LocalStore):
    """A store in one SQLite file, owned by this process: what was answered is still there after a crash.

    Args:
        path: The file; created when it does not exist. Its folder must exist.
        synchronous: `FULL` keeps every answered write through a power cut too; `NORMAL` is faster, and may lose the
            last few to one.

    Raises:
        StoreError: The file cannot be opened, is no store, is damaged, or another process owns it.
    """

    def __init__(self, path: str | Path, *, synchronous: Synchronous = "FULL") -> None:
        super().__init__(Engine(SqliteStorage(path, synchronous)))
