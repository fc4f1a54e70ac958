"""A storage in one SQLite file: durable, for one server on one machine."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import sqlite3
import threading
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

from agentlightning.store.errors import FailedPrecondition, Unavailable
from agentlightning.store.forks import ForkedError
from agentlightning.store.storage.base import Listener, T, Work
from agentlightning.store.storage.connection import create_tables, open_database, store_error
from agentlightning.store.storage.schema import APPLICATION_ID, VERSION
from agentlightning.store.storage.signals import Signal
from agentlightning.store.storage.tx import Experiments, Tx

logger = logging.getLogger(__name__)

Synchronous = Literal["FULL", "NORMAL"]

_MOST_IN_GROUP = 256


class SqliteStorage:
    """Keeps rows in a SQLite file.

    Works that write run on one thread, which takes all that are waiting into one transaction, so that many share one
    write to the disk; each stands in a savepoint of its own, so that one that fails takes no other with it. Works that
    read run on another thread, against the last commit, and hold no write up.

    Args:
        path: The file; created when it does not exist. Its folder must exist.
        synchronous: `FULL` survives a power cut with every answered write; `NORMAL` survives a crash of the process
            with every answered write, and a power cut without the last few.

    Raises:
        StoreError: With a reason when the file cannot be opened, is no store, is damaged, or has an owner already.
    """

    kind = "sqlite"

    def __init__(self, path: str | Path, synchronous: Synchronous = "FULL") -> None:
        self.path = Path(path).resolve()  # one file, one lock, whatever links lead to it
        self._listeners: list[Listener] = []
        self._owner = _take_ownership(self.path)
        try:
            writer, self.store_id = _open_store(self.path, synchronous)
            reader = open_database(str(self.path))
            reader.execute("PRAGMA query_only = 1")
        except BaseException:
            self._owner.close()
            raise
        self._writes = _Worker("agentlightning-sqlite-writer", writer, self._committed, is_only_writer=True)
        self._reads = _Worker("agentlightning-sqlite-reader", reader, self._committed, is_only_writer=False)

    def _committed(self, signals: list[Signal]) -> None:
        for listener in self._listeners:
            try:
                listener(signals)
            except Exception:
                logger.exception("Those who wait could not be told of a commit.")

    def on_commit(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def run(self, work: Work[T]) -> Awaitable[T]:
        return self._writes.submit(work)

    def read(self, work: Work[T]) -> Awaitable[T]:
        return self._reads.submit(work)

    def run_blocking(self, work: Work[T]) -> T:
        return self._writes.submit_blocking(work)

    def close(self) -> None:
        self._reads.close()
        self._writes.close()
        self._owner.close()


class _Job:
    """A work and whoever waits for it: a future of an event loop, or one of threads."""

    __slots__ = ("error", "future", "loop", "result", "work")

    def __init__(
        self,
        work: Callable[[Tx], Any],
        future: asyncio.Future[Any] | concurrent.futures.Future[Any],
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        self.work = work
        self.future = future
        self.loop = loop
        self.result: Any = None
        self.error: BaseException | None = None

    def settle(self) -> None:
        """Hand the outcome over; on the thread of the future's loop."""
        if self.future.done():  # its caller was cancelled
            return
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.error)


class _Worker:
    """A thread with a connection of its own, which runs works in groups: one transaction each."""

    def __init__(
        self,
        name: str,
        connection: sqlite3.Connection,
        committed: Callable[[list[Signal]], None],
        *,
        is_only_writer: bool,
    ) -> None:
        self._connection = connection
        self._begin = "BEGIN IMMEDIATE" if is_only_writer else "BEGIN"
        self._experiments = Experiments() if is_only_writer else None
        self._committed = committed
        self._process = os.getpid()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Work[T]) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._put(_Job(work, future, loop))
        return future

    def submit_blocking(self, work: Work[T]) -> T:
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._put(_Job(work, future, None))
        return future.result()

    def _put(self, job: _Job) -> None:
        if os.getpid() != self._process:
            raise ForkedError(
                "A store in a file does not survive a fork; serve it with LightningStoreServer, and give the child a "
                "LightningStoreClient."
            )
        with self._lock:
            if self._closed:
                raise Unavailable("The store has been closed.", reason="STORE_CLOSED")
            self._jobs.put(job)

    def close(self) -> None:
        with self._lock:
            already, self._closed = self._closed, True
        if not already:
            self._jobs.put(None)
            self._thread.join()
            self._connection.close()

    def _loop(self) -> None:
        while (job := self._jobs.get()) is not None:
            group = [job]
            while len(group) < _MOST_IN_GROUP and not self._jobs.empty():
                following = self._jobs.get()
                if following is None:
                    self._jobs.put(None)
                    break
                group.append(following)
            group = [job for job in group if not job.future.cancelled()]
            if not group:
                continue
            try:
                self._run(group)
            except BaseException as error:
                logger.exception("The storage failed; works that follow may fail too.")
                for job in group:
                    job.error = job.error or _as_store_error(error)
            _settle(group)

    def _run(self, group: list[_Job]) -> None:
        """Run works in one transaction, each in a savepoint of its own unless it is alone."""
        execute = self._connection.execute
        signals: list[Signal] = []
        try:
            execute(self._begin)
            for job in group:
                tx = Tx(self._connection, self._experiments)
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


def _settle(group: list[_Job]) -> None:
    """Hand outcomes over with one wake-up for each event loop."""
    by_loop: dict[asyncio.AbstractEventLoop | None, list[_Job]] = {}
    for job in group:
        by_loop.setdefault(job.loop, []).append(job)
    for loop, jobs in by_loop.items():
        if loop is None:
            _settle_here(jobs)
        elif not loop.is_closed():
            try:
                loop.call_soon_threadsafe(_settle_here, jobs)
            except RuntimeError:  # closed since: nobody waits any more
                continue


def _settle_here(jobs: list[_Job]) -> None:
    for job in jobs:
        job.settle()


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
        if tables and version != VERSION:
            raise FailedPrecondition(
                f"Cannot open {path}: its tables are of version {version}, this release works with {VERSION}.",
                reason="SCHEMA_VERSION",
            )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        if not tables:
            create_tables(connection, uuid.uuid4().hex)
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
