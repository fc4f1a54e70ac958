"""Engines from store URLs: `memory://`, `sqlite:///PATH` and `postgresql://HOST/DATABASE`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from agentlightning.store.engine.engine import Engine
from agentlightning.store.engine.retention import Retention
from agentlightning.store.engine.scope import SpanBound
from agentlightning.store.errors import InvalidArgument
from agentlightning.store.storage.base import DEFAULT_DURABILITY, Durability
from agentlightning.store.storage.memory import MemoryStorage
from agentlightning.store.storage.sqlite import SqliteStorage
from agentlightning.store.storage.urls import without_password

DEFAULT_MEMORY_BYTES = 2 << 30
"""Most bytes that a memory store takes unless told otherwise."""

EVICT_ABOVE = 0.7
"""Share of the memory at which a store starts to drop spans."""

SAFE_SHARE = 0.8
"""Share of that at which it stops."""

T = TypeVar("T")


def open_engine(url: str, durability: Durability = DEFAULT_DURABILITY, *, retention: Retention | None = None) -> Engine:
    """Open the store that a URL names.

    Args:
        url: `memory://`, with `?max_bytes=N` to bound it; or `sqlite:///relative/path` or `sqlite:////absolute/path`;
            or `postgresql://user@host/database`, with the parameters that PostgreSQL's own clients take.
        durability: What every answered write survives; nothing in memory survives anything.
        retention: How long finished rollouts are kept; None keeps them for ever.

    Raises:
        ImportError: The URL asks for a database whose extra is not installed.
        StoreError: The URL is none of these, or the database cannot be opened.
    """
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    if parts.scheme == "memory" and not (parts.netloc or parts.path or parts.fragment):
        max_bytes = _option(url, options, "max_bytes", _size, DEFAULT_MEMORY_BYTES)
        _refuse_rest(url, options)
        return open_memory(max_bytes, retention)
    if parts.scheme == "sqlite" and not (parts.netloc or parts.fragment) and len(parts.path) > 1:
        _refuse_rest(url, options)
        return Engine(SqliteStorage(Path(unquote(parts.path[1:])), durability), retention=retention)
    if parts.scheme in ("postgresql", "postgres"):
        return open_postgres(url, durability, retention)
    raise _fault(
        url,
        "it must be memory://, sqlite:///PATH, with # and ? in a path written %23 and %3F, or "
        "postgresql://USER@HOST/DATABASE",
    )


def open_postgres(url: str, durability: Durability = DEFAULT_DURABILITY, retention: Retention | None = None) -> Engine:
    """Open the store in a PostgreSQL database, which others may have open too; see `open_engine`."""
    try:
        from agentlightning.store.storage.postgres import PostgresStorage
    except ImportError as error:
        raise ImportError(
            f"A store in PostgreSQL needs psycopg ({error}); install agentlightning-grpc[postgres]."
        ) from error
    return Engine(PostgresStorage(url, durability), retention=retention)


def open_memory(max_bytes: int = DEFAULT_MEMORY_BYTES, retention: Retention | None = None) -> Engine:
    """Open an empty store in memory.

    Args:
        max_bytes: Most bytes that it may take. From seven tenths of it on, the spans of finished rollouts are dropped,
            the oldest first.
        retention: How long finished rollouts are kept; None keeps them for ever.
    """
    bound = SpanBound(evict_above=int(max_bytes * EVICT_ABOVE), evict_down_to=int(max_bytes * EVICT_ABOVE * SAFE_SHARE))
    return Engine(MemoryStorage(max_bytes), span_bound=bound, retention=retention)


def _option(url: str, options: dict[str, str], name: str, read: Callable[[str], T], default: T) -> T:
    text = options.pop(name, None)
    if text is None:
        return default
    try:
        return read(text)
    except ValueError as error:
        raise _fault(url, f"{name}={text} is {error}") from error


def _size(text: str) -> int:
    if not text.isdigit() or int(text) < 1 << 20:
        raise ValueError("not a number of bytes from 1048576 on")
    return int(text)


def _refuse_rest(url: str, options: dict[str, str]) -> None:
    if options:
        raise _fault(url, f"the option {min(options)} is not known")


def _fault(url: str, fault: str) -> InvalidArgument:
    return InvalidArgument(f"Cannot open the store {without_password(url)!r}: {fault}.", reason="INVALID_STORE_URL")
