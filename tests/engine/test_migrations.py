"""A database that an older release has made is brought up to date, and one of a newer release is left alone."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from calls import claim, enqueue, get, ids, publish, refused, span_names, statistics, worker
from postgres import bare_database, connected

from agentlightning.store.engine.engine import Engine
from agentlightning.store.errors import FailedPrecondition
from agentlightning.store.storage import postgres_connection
from agentlightning.store.storage.base import Storage
from agentlightning.store.storage.postgres import PostgresStorage
from agentlightning.store.storage.postgres_connection import open_store
from agentlightning.store.storage.postgres_schema import SCHEMA, STEPS, VERSION
from agentlightning.store.storage.sqlite import SqliteStorage
from agentlightning.store.storage.sqlite_schema import VERSION as SQLITE_VERSION

OLD_FILE = Path(__file__).with_name("store_v1.sql")


@pytest.fixture
def url() -> Iterator[str]:
    """A database with nothing in it."""
    with bare_database() as made:
        yield made


async def check_totals(storage: Storage, resources: int, workers: int) -> None:
    """Check totals that version 1 did not keep, and that they are kept from now on."""
    engine = Engine(storage, watches=False)
    totals = await statistics(engine)
    assert (totals.total_resources, totals.total_workers) == (resources, workers)
    await publish(engine, "new")
    await enqueue(engine, "new")
    await claim(engine, worker_id="new")
    totals = await statistics(engine)
    assert (totals.total_resources, totals.total_workers) == (resources + 1, workers + 1)
    engine.close()


async def test_a_file_of_version_1_is_brought_up_to_date_with_all_that_is_in_it(quick_folder: Path) -> None:
    path = quick_folder / "store.db"
    with closing(sqlite3.connect(path)) as database:
        database.executescript(OLD_FILE.read_text())
    engine = Engine(SqliteStorage(path), watches=False)
    assert await ids(engine) == ["queued", "running"]
    assert (await get(engine, "elsewhere", "other")).rollout_id == "elsewhere"
    assert await span_names(engine, "running") == ["kept"]
    assert (await worker(engine, "w1")).current_rollout_id == "running"
    assert (await claim(engine)).rollout_id == "queued"
    engine.close()
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (SQLITE_VERSION,)
    await check_totals(SqliteStorage(path), resources=2, workers=2)


async def test_a_file_of_version_1_whose_change_fails_is_left_as_it_was(quick_folder: Path) -> None:
    path = quick_folder / "store.db"
    with closing(sqlite3.connect(path)) as database:
        database.executescript(OLD_FILE.read_text())
        database.execute("CREATE TRIGGER worker_added AFTER INSERT ON workers BEGIN SELECT 1; END")  # in its way
    before = path.read_bytes()
    with refused(FailedPrecondition, "DATABASE_UNAVAILABLE"):
        SqliteStorage(path)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (1,)
        assert database.execute("SELECT COUNT(*) FROM tallies WHERE name = 'workers'").fetchone() == (0,)
    assert len(path.read_bytes()) == len(before)


def make_version_1(connection: psycopg.Connection[Any]) -> None:
    """Make a database a store of the first release."""
    connection.execute(f"CREATE SCHEMA {SCHEMA}")
    connection.execute("CREATE TABLE migrations (version BIGINT PRIMARY KEY, made TIMESTAMPTZ DEFAULT now())")
    connection.execute("INSERT INTO migrations (version) VALUES (1)")
    connection.execute(STEPS[0])


@pytest.mark.parametrize("table", ["migrations", "rollouts"])
def test_a_database_whose_tables_are_in_use_is_refused_and_left_as_it_was(
    url: str, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goes wrong when a new release waits for a backup to end, and older servers wait behind it."""
    monkeypatch.setattr(postgres_connection, "_LONGEST_LOCK", "50ms")
    with connected(url) as connection:
        make_version_1(connection)
        with connection.transaction(), refused(FailedPrecondition, "DATABASE_UNAVAILABLE") as caught:
            connection.execute(f"LOCK TABLE {table} IN ACCESS SHARE MODE")  # as pg_dump does
            open_store(url)
        assert "from being changed; start again when that has ended" in caught.value.message
        assert connection.execute("SELECT version FROM migrations").fetchall() == [(1,)]
    assert open_store(url)


def test_a_connection_that_has_ended_by_itself_is_no_reason_to_refuse(url: str) -> None:
    """Goes wrong when a server that ends in the middle of the start of a newer one keeps that from starting."""
    open_store(url)
    with connected(url) as connection, connection.transaction():
        older = postgres_connection.connect(url, "none")
        find = f"SELECT 1 FROM pg_stat_activity WHERE pid = {older.info.backend_pid}"
        assert connection.execute(find).fetchone()
        older.close()
        with connected(url) as looking:
            while looking.execute(find).fetchone():
                time.sleep(0.005)
        assert postgres_connection._end_serving(connection)  # noqa: SLF001  the moment cannot be met otherwise


async def test_a_database_of_version_1_is_brought_up_to_date_with_all_that_is_in_it(url: str) -> None:
    with connected(url) as connection:
        make_version_1(connection)
        connection.execute("INSERT INTO experiments (name, create_time, forgotten_seq) VALUES ('default', 1, 0)")
        for name in ("a", "b", "c"):
            connection.execute(
                "INSERT INTO workers (experiment, worker_id, status, draining) VALUES (1, %s, 0, 0)", (name,)
            )
        connection.execute(
            "INSERT INTO resources (experiment, resources_id, version, create_time, update_time, fingerprint, body) "
            "VALUES (1, 'r', 1, 1, 1, '', '')"
        )
        (store_id,) = connection.execute("SELECT store_id FROM store").fetchone() or ("",)
    storage = PostgresStorage(url)
    assert storage.store_id == store_id
    await check_totals(storage, resources=1, workers=3)
    with connected(url) as connection:
        versions = connection.execute("SELECT version FROM migrations ORDER BY 1").fetchall()
    assert versions == [(version,) for version in range(1, VERSION + 1)]


def test_servers_that_start_at_once_make_one_store(url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(open_store, [url] * 4))
    assert len(set(found)) == 1
    with connected(url) as connection:
        assert connection.execute("SELECT COUNT(*) FROM migrations").fetchone() == (VERSION,)


def test_a_database_of_a_newer_release_is_refused(url: str) -> None:
    open_store(url)
    with connected(url) as connection:
        connection.execute("INSERT INTO migrations (version) VALUES (%s)", (VERSION + 1,))
    with refused(FailedPrecondition, "SCHEMA_VERSION") as caught:
        PostgresStorage(url)
    assert f"version {VERSION + 1}, this release works with {VERSION}" in caught.value.message
