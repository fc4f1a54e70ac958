"""A storage that lives and dies with its process: a SQLite database in memory, used in place."""

from __future__ import annotations

import sqlite3
import threading
import uuid
import weakref
from collections.abc import Awaitable

from agentlightning.store.storage.base import Listener, T, Work
from agentlightning.store.storage.clock import Clock
from agentlightning.store.storage.connection import bring_up_to_date, open_database, store_error
from agentlightning.store.storage.sqlite_tx import SqliteTx
from agentlightning.store.storage.tx import Experiments


class MemoryStorage:
    """Keeps rows in memory, with the very tables of `SqliteStorage`, so that both behave alike.

    Works run on the caller's thread, at once: there is no disk to wait for, and a hop to another thread would cost more
    than the work. The rows are not Python objects, so the garbage collector never sees them.

    Args:
        max_bytes: Most bytes that the database may take; a work that needs more fails with `ResourceExhausted`.
    """

    kind = "memory"

    def __init__(self, max_bytes: int | None = None) -> None:
        self.store_id = uuid.uuid4().hex
        self.clock = Clock()
        self._connection = open_database(":memory:")
        if max_bytes is not None:
            (page,) = self._connection.execute("PRAGMA page_size").fetchone()
            self._connection.execute(f"PRAGMA max_page_count = {max(1, max_bytes // page)}")
        bring_up_to_date(self._connection, self.store_id)
        self._experiments = Experiments()
        # A store that is dropped unclosed must not make the interpreter warn of its database.
        self._close = weakref.finalize(self, self._connection.close)
        self._lock = threading.RLock()
        self._listeners: list[Listener] = []

    def on_commit(self, listener: Listener) -> None:
        self._listeners.append(listener)

    async def run(self, work: Work[T]) -> T:
        return self.run_blocking(work)

    def read(self, work: Work[T]) -> Awaitable[T]:
        return self.run(work)

    def run_blocking(self, work: Work[T]) -> T:
        with self._lock:
            tx = SqliteTx(self._connection, self._experiments)
            try:
                self._connection.execute("BEGIN")
                result = work(tx)
                self._connection.execute("COMMIT")
            except BaseException as error:
                self._experiments.clear()
                if self._close.alive and self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise store_error(error) from error
                raise
            if tx.signals:
                for listener in self._listeners:
                    listener(tx.signals)
        return result

    def watch_term(self) -> int | None:
        return 1

    def close(self) -> None:
        with self._lock:
            self._close()
