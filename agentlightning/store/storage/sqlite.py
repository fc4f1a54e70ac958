"""A storage in one SQLite file: durable, for one server on one machine."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable
from pathlib import Path

from agentlightning.store.errors import FailedPrecondition
from agentlightning.store.storage.base import DEFAULT_DURABILITY, Durability
from agentlightning.store.storage.clock import Clock
from agentlightning.store.storage.connection import bring_up_to_date, open_database, store_error
from agentlightning.store.storage.groups import GroupedStorage, Groups, Job, settle
from agentlightning.store.storage.signals import Signal
from agentlightning.store.storage.sqlite_schema import APPLICATION_ID, VERSION
from agentlightning.store.storage.sqlite_tx import SqliteTx
from agentlightning.store.storage.tx import Experiments

_SYNCHRONOUS = {"power-cut": "FULL", "crash": "NORMAL", "none": "OFF"}


class SqliteStorage(GroupedStorage):
    """Keeps rows in a SQLite file.

    Works that write run on one thread, which takes all that are waiting into one transaction, so that many share one
    write to the disk; each stands in a savepoint of its own, so that one that fails takes no other with it. Works that
    read run on another thread, against the last commit, and hold no write up.

    Args:
        path: The file; created when it does not exist. Its folder must exist.
        durability: What every answered write survives.

    Raises:
        StoreError: With a reason when the file cannot be opened, is no store, is damaged, or has an owner already.
    """

    kind = "sqlite"

    def __init__(self, path: str | Path, durability: Durability = DEFAULT_DURABILITY) -> None:
        self.path = Path(path).resolve()  # one file, one lock, whatever links lead to it
        super().__init__()
        self._owner = _take_ownership(self.path)
        try:
            writer, self.store_id = _open_store(self.path, _SYNCHRONOUS[durability])
            reader = open_database(str(self.path))
            reader.execute("PRAGMA query_only = 1")
        except BaseException:
            self._owner.close()
            raise
        self.clock = Clock()
        self._connections = [reader, writer]
        self._writes = Groups(
            "agentlightning-sqlite-writer", "file", [_Transactions(writer, self._tell, is_only_writer=True).run]
        )
        self._reads = Groups(
            "agentlightning-sqlite-reader", "file", [_Transactions(reader, self._tell, is_only_writer=False).run]
        )

    def watch_term(self) -> int | None:
        return 1

    def close(self) -> None:
        self._reads.close()
        self._writes.close()
        for connection in self._connections:
            connection.close()
        self._owner.close()


class _Transactions:
    """Runs groups of works on one connection, each group in one transaction.

    Args:
        connection: The database.
        committed: Told the signals of each commit.
        is_only_writer: Whether it may write, and remember what it wrote.
    """

    def __init__(
        self, connection: sqlite3.Connection, committed: Callable[[list[Signal]], None], *, is_only_writer: bool
    ) -> None:
        self._connection = connection
        self._begin = "BEGIN IMMEDIATE" if is_only_writer else "BEGIN"
        self._experiments = Experiments() if is_only_writer else None
        self._committed = committed

    def run(self, group: list[Job]) -> None:
        """Run works in one transaction, and settle them."""
        self._run(group)
        settle(group)

    def _run(self, group: list[Job]) -> None:
        """Run works in one transaction, each in a savepoint of its own unless it is alone."""
        execute = self._connection.execute
        signals: list[Signal] = []
        try:
            execute(self._begin)
            for job in group:
                tx = SqliteTx(self._connection, self._experiments)
                try:
                    if len(group) > 1:
                        execute("SAVEPOINT work")
                    job.result = job.work(tx)
                    if len(group) > 1:
                        execute("RELEASE work")
                except BaseException as error:
                    job.error = _as_store_error(error)
                    self._forget()
                    # Alone it ends the transaction; so does a full disk, for all.
                    if len(group) == 1 or not self._connection.in_transaction:
                        raise
                    execute("ROLLBACK TO work")
                    execute("RELEASE work")
                else:
                    signals += tx.signals
            execute("COMMIT")
        except BaseException as error:  # noqa: BLE001  whatever it is belongs to the callers
            self._forget()
            if self._connection.in_transaction:
                execute("ROLLBACK")
            for job in group:
                job.error = job.error or _as_store_error(error)
        else:
            if signals:
                self._committed(signals)

    def _forget(self) -> None:
        if self._experiments is not None:
            self._experiments.clear()


def _as_store_error(error: BaseException) -> BaseException:
    return store_error(error) if isinstance(error, sqlite3.Error) else error


def _take_ownership(path: Path) -> sqlite3.Connection:
    """Lock out a second owner for as long as the returned connection lives.

    The lock is that of an empty SQLite database beside the store's, because SQLite's locks work alike on every system
    and end with their process, however it ends.
    """
    if not path.parent.is_dir():
        raise FailedPrecondition(
            f"Cannot open {path}: the folder {path.parent} does not exist.", reason="DATABASE_UNAVAILABLE"
        )
    lock: sqlite3.Connection | None = None
    try:
        lock = sqlite3.connect(f"{path}-lock", isolation_level=None, check_same_thread=False, timeout=0)
        lock.execute("PRAGMA journal_mode = MEMORY")
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        if lock is not None:
            lock.close()
        if "locked" in str(error):
            raise FailedPrecondition(
                f"Cannot open {path}: another server has it open.", reason="DATABASE_IN_USE"
            ) from error
        raise FailedPrecondition(f"Cannot open {path}: {error}.", reason="DATABASE_UNAVAILABLE") from error
    return lock


def _open_store(path: Path, synchronous: str) -> tuple[sqlite3.Connection, str]:
    """Return a connection that may write, and the identity of the data."""
    connection: sqlite3.Connection | None = None
    try:
        connection = open_database(str(path))
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        if tables and application != APPLICATION_ID:
            raise FailedPrecondition(f"Cannot open {path}: it is a database of something else.", reason="NOT_A_STORE")
        if tables and not 1 <= version <= VERSION:
            raise FailedPrecondition(
                f"Cannot open {path}: its tables are of version {version}, this release works with {VERSION}.",
                reason="SCHEMA_VERSION",
            )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        if version < VERSION:
            bring_up_to_date(connection, uuid.uuid4().hex)
        # A write that changes nothing: it fails on a file that may only be read.
        connection.execute(f"PRAGMA user_version = {VERSION}")
        (store_id,) = connection.execute("SELECT store_id FROM store").fetchone()
    except BaseException as error:
        if connection is not None:
            connection.close()
        if isinstance(error, sqlite3.DatabaseError):
            raise FailedPrecondition(f"Cannot open {path}: {error}.", reason="DATABASE_UNAVAILABLE") from error
        raise
    return connection, store_id
