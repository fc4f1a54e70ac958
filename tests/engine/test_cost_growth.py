"""No call costs more because the store holds more: what the databases do is looked at, not how long it takes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from hot_calls import CALLS, Busy, busy
from postgres import SERVER, connected
from stores import StorageKind, open_storage

from agentlightning.store.storage.base import Storage
from agentlightning.store.storage.memory import MemoryStorage
from agentlightning.store.storage.postgres import PostgresStorage
from agentlightning.store.storage.sqlite import SqliteStorage


def connections(storage: Storage) -> list[Any]:
    """The SQLite databases of a storage, or the connections to one."""
    assert isinstance(storage, (MemoryStorage, SqliteStorage))
    return [storage._connection] if isinstance(storage, MemoryStorage) else storage._connections  # noqa: SLF001


class Steps:
    """Counts what SQLite's machine does, in twenties of instructions."""

    def __init__(self, storage: Storage) -> None:
        self.count = 0
        for connection in connections(storage):
            connection.set_progress_handler(self._step, 20)

    def _step(self) -> int:
        self.count += 1
        return 0

    async def of_calls(self, store: Busy) -> dict[str, int]:
        """Return the steps of each call."""
        found = {}
        for name, function in CALLS.items():
            before = self.count
            await function(store)
            found[name] = self.count - before
        return found


def grown(few: dict[str, int], many: dict[str, int]) -> list[str]:
    """The calls that take more steps in the larger store; some steps depend on what a call finds there."""
    return [f"{name}: {few[name]} -> {many[name]}" for name in few if many[name] > 1.5 * few[name] + 15]


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_no_call_takes_more_steps_in_a_larger_store(kind: StorageKind, quick_folder: Path) -> None:
    """Goes wrong when a statement scans, filters or sorts what the store holds."""
    found = []
    for finished in (100, 1500):
        (folder := quick_folder / str(finished)).mkdir()
        async with busy(open_storage(kind, folder), finished) as store:
            found.append(await Steps(store.engine.storage).of_calls(store))
    assert grown(*found) == []


async def test_each_index_of_sqlite_keeps_some_call_from_growing() -> None:
    """Goes wrong when an index is of no use, or when the test above would not see that it is missing."""
    storage = MemoryStorage()
    async with busy(storage, 1000) as store:
        (database,) = connections(storage)
        steps = Steps(storage)
        needed = {}
        with closing(sqlite3.connect(":memory:")) as filled:
            database.backup(filled)
            with_all = await steps.of_calls(store)
            indexes = filled.execute("SELECT name FROM sqlite_master WHERE type = 'index' AND sql > ''").fetchall()
            for name in ("", *(name for (name,) in indexes)):
                filled.backup(database)
                storage._experiments.clear()  # noqa: SLF001  the database is not what it was
                database.execute(f"DROP INDEX {name}" if name else "SELECT 1")
                needed[name] = grown(with_all, await steps.of_calls(store))
        assert [name for name, calls in needed.items() if not calls] == [""]


MOST_ROWS = 40
"""Rows that a statement may touch, whatever is in the store: pages of these calls have three."""


NOT_SEEN = {
    "attempts_by_worker": "not needed by a worker that took on the newest attempt of all",
    "attempts_by_claim": "used inside a function of the database",
    "spans_by_source": "used for sources that are gone when the statement is run again",
    "tallies_by_name": "totals are left out here",
}
"""Indexes that PostgreSQL needs, though the statements that are looked at need not show it."""


class Statement(NamedTuple):
    """What a storage had PostgreSQL run."""

    text: str
    values: Any


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[Statement]:
    """Collects the statements that are run from now on."""
    found: list[Statement] = []
    execute = psycopg.Cursor.execute

    def collect(cursor: Any, query: Any, values: Any = None, **options: Any) -> Any:
        found.append(Statement(str(query), values))
        return execute(cursor, query, values, **options)

    monkeypatch.setattr(psycopg.Cursor, "execute", collect)
    return found


def most_rows(plan: dict[str, Any]) -> float:
    """The rows that the busiest part of a plan has touched: those that it found, and those that a filter took away."""
    rows = sum(plan.get(part, 0) for part in ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck"))
    return max(rows * plan["Actual Loops"], *map(most_rows, plan.get("Plans", ())), 0)


def excessive(connection: psycopg.Connection[Any], statements: Iterable[Statement]) -> list[str]:
    """The statements that touch many rows; each is run and undone."""
    found = []
    for text, values in statements:
        with connection.transaction(force_rollback=True):
            (((plan,),),) = connection.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {text}", values).fetchall()
        rows = most_rows(plan["Plan"])
        if rows > MOST_ROWS:
            found.append(f"{rows:.0f} rows: {text}")
    return found


async def test_postgres_touches_few_rows_for_any_call_and_would_not_without_its_indexes(
    quick_folder: Path, statements: list[Statement]
) -> None:
    url = SERVER.url_of(quick_folder)
    async with busy(PostgresStorage(url, "crash", turn=3600.0), 600) as store:
        with connected(url) as connection:
            connection.execute("ANALYZE")
        statements.clear()
        for name, function in CALLS.items():
            if name != "make_room_in_memory":
                await function(store)
        # Those that insert look for nothing, and totals are summed up each second, which this storage does not do.
        looking = [one for one in statements if one.text.startswith(("SELECT", "UPDATE", "DELETE"))]
        run = {one.text: one for one in looking if " FROM tallies " not in one.text}.values()
    needed = {}
    with connected(url) as connection:
        connection.execute("SET enable_seqscan = off")  # or small tables are scanned
        indexes = connection.execute(
            "SELECT indexname FROM pg_indexes WHERE schemaname = current_schema() AND indexname NOT LIKE '%key'"
        ).fetchall()
        for name in ("", *(name for (name,) in indexes)):
            with connection.transaction(force_rollback=True):
                if name:
                    connection.execute(f"DROP INDEX {name}")
                needed[name] = excessive(connection, run)
    assert needed[""] == []
    assert {name for name, found in needed.items() if not found} - NOT_SEEN.keys() == {""}
