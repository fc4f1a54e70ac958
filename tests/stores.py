"""Stores to test: every storage, in process and over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from postgres import SERVER

from agentlightning.store.api import StoreApi
from agentlightning.store.engine.engine import Engine
from agentlightning.store.engine.retention import Retention
from agentlightning.store.engine.scope import SpanBound
from agentlightning.store.engine.waiting import Subscription
from agentlightning.store.remote.api import connect
from agentlightning.store.server.server import StoreServer
from agentlightning.store.storage.base import Storage
from agentlightning.store.storage.clock import Clock
from agentlightning.store.storage.memory import MemoryStorage
from agentlightning.store.storage.sqlite import SqliteStorage

SECOND = 1_000_000_000
DAY = 24 * 3600.0

StorageKind = Literal["memory", "sqlite", "postgres"]
Transport = Literal["in-process", "grpc"]


class VariantName(NamedTuple):
    """A storage, and how it is reached."""

    kind: StorageKind
    transport: Transport

    def __str__(self) -> str:
        return f"{self.kind}-{self.transport}"


VARIANTS = tuple(VariantName(*pair) for pair in product(get_args(StorageKind), get_args(Transport)))


class FakeClock(Clock):
    """Stands still until it is told to move."""

    def __init__(self) -> None:
        self.time = 1_700_000_000 * SECOND

    def now(self) -> int:
        return self.time

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.time += round(seconds * SECOND)


@dataclass
class OpenStore:
    """A store that is open."""

    api: StoreApi
    engine: Engine
    clock: FakeClock | None

    def pass_time(self, seconds: float) -> None:
        """Let time pass on the store's clock, and let the watchdog see to what is due then."""
        assert self.clock is not None
        self.clock.advance(seconds)
        while self.engine.look_after_attempts() == 0.0:
            continue

    async def until_waiting(self, count: int = 1) -> None:
        """Return when that many calls are held by the engine."""
        await _until(lambda: self.waiting() == count, lambda: f"{self.waiting()} calls are held, not {count}")

    async def until_asleep(self, count: int) -> None:
        """Return when that many calls are held and none looks any more: it may find what is meant for another."""
        await self.until_waiting(count)
        held = self._held()
        await _until(lambda: all(one._event._waiters for one in held), lambda: "a call does not fall asleep")  # type: ignore[attr-defined] # noqa: SLF001

    def waiting(self) -> int:
        """Return the number of calls that the engine holds."""
        return len(self._held())

    def _held(self) -> set[Subscription]:
        waiters = self.engine._waiters  # noqa: SLF001  no call of the contract tells
        return {subscription for waiting in waiters._by_key.values() for subscription in waiting}  # noqa: SLF001


async def _until(condition: Callable[[], bool], fault: Callable[[], str]) -> None:
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError(fault())


def open_storage(kind: StorageKind, folder: Path, max_bytes: int | None = None) -> Storage:
    """Open a storage; one that is durable is the one of an earlier call for the folder."""
    if kind == "memory":
        return MemoryStorage(max_bytes)
    if kind == "sqlite":
        return SqliteStorage(folder / "store.db", durability="crash")
    return SERVER.storage_of(folder)


@dataclass
class Variant:
    """A storage, and how it is reached."""

    kind: StorageKind
    transport: Transport
    folder: Path

    @asynccontextmanager
    async def open(
        self,
        *,
        clock: FakeClock | None = None,
        span_bound: SpanBound | None = None,
        max_bytes: int | None = None,
        retention: Retention | None = None,
    ) -> AsyncIterator[OpenStore]:
        """Open an empty store, or the one of an earlier call where the storage is durable.

        Args:
            clock: Tells the time, and nothing happens by itself; None goes by real time.
            span_bound: The engine's.
            max_bytes: The memory storage's; the others have no such bound.
            retention: The engine's.
        """
        engine = Engine(
            open_storage(self.kind, self.folder, max_bytes),
            span_bound=span_bound,
            retention=retention,
            clock=clock,
            watches=clock is None,
        )
        try:
            if self.transport == "in-process":
                yield OpenStore(engine, engine, clock)
            else:
                server = StoreServer(engine, port=0)
                await server.start()
                api = connect(server.address)
                try:
                    yield OpenStore(api, engine, clock)
                finally:
                    await api.close()
                    await server.stop()
        finally:
            engine.close()
