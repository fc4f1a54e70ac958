"""Connections to PostgreSQL, the tables there, and saying clearly what is wrong."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import errors
from psycopg.types.numeric import Int8BinaryDumper, Int8Dumper
from psycopg.types.string import StrDumperUnknown

from agentlightning.store.errors import FailedPrecondition, Internal, ResourceExhausted, StoreError, Unavailable
from agentlightning.store.storage.base import Durability
from agentlightning.store.storage.postgres_schema import SCHEMA, STEPS, VERSION
from agentlightning.store.storage.urls import without_password

OLDEST = 14
"""The oldest release of PostgreSQL that will do: the first that ends idle sessions by itself."""

_SYNCHRONOUS_COMMIT = {"power-cut": "on", "crash": "off", "none": "off"}
_NAME = "agentlightning"
"""What PostgreSQL knows the connections of serving stores by."""
_OPENING = "agentlightning opening"

_CONNECT = {"connect_timeout": 5, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
_PREPARE_AFTER = 2
_MOST_PREPARED = 500
_RETRY_AFTER = 1.0
_SELECT_VERSION = "SELECT COALESCE(MAX(version), 0) FROM migrations"
_LONGEST_LOCK = "5s"
_LONGEST_CHECK = "1s"
_SERVING = f"FROM pg_stat_activity WHERE datname = current_database() AND application_name = '{_NAME}'"
_END_SERVING = f"SELECT pid, pg_terminate_backend(pid, 5000) {_SERVING}"

_OVERTAKEN = (
    errors.LockNotAvailable,
    errors.DeadlockDetected,
    errors.SerializationFailure,
    errors.UniqueViolation,
)
_UNREACHABLE = (psycopg.OperationalError, psycopg.InterfaceError)


class _TextDumper(StrDumperUnknown):
    """PostgreSQL cannot hold the character NUL in a text."""

    def dump(self, obj: str) -> Any:
        return super().dump(obj.replace("\0", "\ufffd") if "\0" in obj else obj)


def connect(url: str, durability: Durability, **settings: str) -> psycopg.Connection[Any]:
    """Open a connection to a store, with transactions begun and ended by hand.

    Args:
        url: As PostgreSQL writes it.
        durability: What commits survive.
        settings: Settings of the session.

    Raises:
        psycopg.Error: The database cannot be reached.
        psycopg.OperationalError: So does a newer release, which is changing the tables just now.
        Unavailable: A newer release has changed the tables since the store was opened.
    """
    connection = _connect(url, _NAME, durability, **settings)
    try:
        with connection.transaction():
            connection.execute(f"SET LOCAL lock_timeout = '{_LONGEST_CHECK}'")
            (version,) = connection.execute(_SELECT_VERSION).fetchone()  # type: ignore[misc]
        if version != VERSION:
            raise Unavailable(
                f"The database has gone over to a newer release: {_other_tables(version)}. Work with a server of that.",
                reason="DATABASE_UNREACHABLE",
                retry_after=_RETRY_AFTER,
            )
    except BaseException as error:
        connection.close()
        if isinstance(error, errors.LockNotAvailable):  # told apart from a row that another work has
            raise psycopg.OperationalError("a newer release is changing its tables") from error
        raise
    return connection


def _connect(url: str, name: str, durability: Durability, **settings: str) -> psycopg.Connection[Any]:
    settings = {
        "search_path": SCHEMA,
        "synchronous_commit": _SYNCHRONOUS_COMMIT[durability],
        "client_min_messages": "warning",
        # A server that was stopped in the middle of a transaction must not hold up the others for ever.
        "idle_in_transaction_session_timeout": "10s",
        "tcp_keepalives_idle": "10",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
        **settings,
    }
    options = {name: value for name, value in _CONNECT.items() if f"{name}=" not in url}
    connection: psycopg.Connection[Any] = psycopg.connect(
        url,
        autocommit=True,
        application_name=name,
        **options,  # type: ignore[arg-type]
    )
    try:
        connection.prepare_threshold = _PREPARE_AFTER
        connection.prepared_max = _MOST_PREPARED
        for dumper in (Int8Dumper, Int8BinaryDumper):  # one type for all: a statement is prepared once
            connection.adapters.register_dumper(int, dumper)
        connection.adapters.register_dumper(str, _TextDumper)
        names, values = list(settings), list(settings.values())
        connection.execute(
            "SELECT set_config(name, value, false) FROM unnest(%s::TEXT[], %s::TEXT[]) AS new (name, value)",
            (names, values),
        )
    except BaseException:
        connection.close()
        raise
    return connection


def open_store(url: str) -> str:
    """Make an empty database a store, or bring one of an older release up to date; return the identity of the data.

    Of several servers that start at once one does it, and the others wait. Servers of an older release that are at work
    lose the tables that they know: their connections are ended, and `connect` makes them no new ones.

    Raises:
        StoreError: The database cannot be reached, is too old, or is of a newer release.
    """
    try:
        with _connect(url, _OPENING, "power-cut") as connection:
            if connection.info.server_version < OLDEST * 10_000:
                raise _refusal(
                    url, f"it is PostgreSQL {connection.info.server_version // 10_000}, not {OLDEST} or newer"
                )
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('agentlightning migrations', 0))")
                _bring_up_to_date(connection, url)
            (store_id,) = connection.execute("SELECT store_id FROM store").fetchone()  # type: ignore[misc]
    except errors.LockNotAvailable as error:
        fault = "something else, such as a backup, keeps its tables, which are of an older release, from being changed"
        raise _refusal(url, f"{fault}; start again when that has ended") from error
    except psycopg.Error as error:
        raise _refusal(url, str(error).strip()) from error
    return str(store_id)


def _bring_up_to_date(connection: psycopg.Connection[Any], url: str) -> None:
    (known,) = connection.execute("SELECT to_regclass(%s)", (f"{SCHEMA}.migrations",)).fetchone()  # type: ignore[misc]
    if known is None:
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
        connection.execute("CREATE TABLE migrations (version BIGINT PRIMARY KEY, made TIMESTAMPTZ DEFAULT now())")
    (version,) = connection.execute(_SELECT_VERSION).fetchone()  # type: ignore[misc]
    if version > VERSION:
        raise _refusal(url, _other_tables(version), reason="SCHEMA_VERSION")
    if 0 < version < VERSION:
        # Whoever connects from here on waits for the new version, and whoever did before is ended. Older servers that
        # connect wait as long as this does, so this does not wait for long.
        connection.execute(f"SET LOCAL lock_timeout = '{_LONGEST_LOCK}'")
        connection.execute("LOCK TABLE migrations IN ACCESS EXCLUSIVE MODE")
        if not _end_serving(connection):
            raise _refusal(url, "servers of an older release work on it, and their connections do not end")
    for number in range(version, VERSION):
        connection.execute(STEPS[number])
        connection.execute("INSERT INTO migrations (version) VALUES (%s)", (number + 1,))


def _end_serving(connection: psycopg.Connection[Any]) -> bool:
    """End the connections of serving stores; tell whether none of them is left."""
    left = [pid for pid, is_ended in connection.execute(_END_SERVING).fetchall() if not is_ended]
    if left:  # or they had ended before, since a transaction sees who is connected as it was when it first looked
        connection.execute("SELECT pg_stat_clear_snapshot()")
        left = connection.execute(f"SELECT pid {_SERVING} AND pid = ANY(%s)", (left,)).fetchall()
    return not left


def _other_tables(version: int) -> str:
    return f"its tables are of version {version}, this release works with {VERSION}"


def _refusal(url: str, fault: str, *, reason: str = "DATABASE_UNAVAILABLE") -> FailedPrecondition:
    return FailedPrecondition(f"Cannot open {without_password(url)}: {fault}.", reason=reason)


def was_overtaken(error: BaseException) -> bool:
    """Tell whether a work failed because another transaction was faster, so that running it again helps."""
    return isinstance(error, _OVERTAKEN)


def is_lost(connection: psycopg.Connection[Any], error: BaseException) -> bool:
    """Tell whether an error means that a connection must be opened anew."""
    return connection.closed or isinstance(error, (errors.ReadOnlySqlTransaction, errors.CannotConnectNow))


def store_error(error: psycopg.Error) -> StoreError:
    """Return what an error of PostgreSQL means to the caller of a store."""
    text = str(error).strip()
    if isinstance(error, errors.DiskFull):
        return ResourceExhausted(
            f"The database is full: {text}. Delete rollouts, or give it more room.", reason="STORAGE_FULL"
        )
    if was_overtaken(error):
        return Unavailable(f"The database is overloaded: {text}.", reason="CONTENTION", retry_after=_RETRY_AFTER)
    if isinstance(error, _UNREACHABLE):
        return Unavailable(
            f"The database cannot be reached: {text}.", reason="DATABASE_UNREACHABLE", retry_after=_RETRY_AFTER
        )
    return Internal(
        f"The storage failed: {text}.", reason="STORAGE_FAILED", metadata={"sqlstate": error.sqlstate or ""}
    )
