"""Opening SQLite databases, and saying clearly what is wrong with one."""

from __future__ import annotations

import sqlite3

from agentlightning.store.errors import Internal, ResourceExhausted, StoreError, Unavailable
from agentlightning.store.storage.sqlite_schema import APPLICATION_ID, STEPS, VERSION


def open_database(path: str) -> sqlite3.Connection:
    """Open a database, to be used by one thread at a time, with transactions begun and ended by hand."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=512)
    connection.execute("PRAGMA temp_store = MEMORY")
    return connection


def bring_up_to_date(connection: sqlite3.Connection, store_id: str) -> None:
    """Make an empty database a store, or give one of an older release the tables of this one; wholly or not at all.

    Args:
        connection: The database.
        store_id: Identity of a new store; one that exists keeps its own.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    try:
        connection.executescript(f"BEGIN IMMEDIATE; {''.join(STEPS[version:])}")
        if version == 0:
            connection.execute("INSERT INTO store (key, store_id) VALUES (1, ?)", (store_id,))
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def store_error(error: sqlite3.Error) -> StoreError:
    """Return what an error of SQLite means to the caller of a store."""
    name = getattr(error, "sqlite_errorname", "")  # since Python 3.11
    text = str(error)
    if name == "SQLITE_FULL" or "disk is full" in text:
        return ResourceExhausted(
            f"The storage is full: {text}. Delete rollouts, or give it more room.", reason="STORAGE_FULL"
        )
    if isinstance(error, sqlite3.ProgrammingError) and "closed" in text:
        return Unavailable("The store has been closed.", reason="STORE_CLOSED")
    return Internal(f"The storage failed: {text}.", reason="STORAGE_FAILED", metadata={"sqlite_error": name})
