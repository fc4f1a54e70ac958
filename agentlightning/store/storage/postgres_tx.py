"""Rows in PostgreSQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, get_args, get_type_hints

import psycopg

from agentlightning.store.storage.postgres_schema import KEY_OF_EXPERIMENT, KEY_OF_STATE
from agentlightning.store.storage.queries import Position, Query
from agentlightning.store.storage.rows import (
    AttemptRow,
    ExperimentRow,
    ResourcesRow,
    RolloutRow,
    SpanRow,
    TombstoneRow,
    WorkerRow,
)
from agentlightning.store.storage.schema import ATTEMPTS, EXPERIMENTS, SPANS, WORKERS, Table
from agentlightning.store.storage.tx import OF_EXPERIMENT, QUEUE, WORKER, Experiments, R, Tx, queued

_UNNUMBERED = 1 << 62
"""Added to numbers of changes until the transaction ends, when the true ones are known."""

_FETCHED_AT_ONCE = 128
_FETCHED_AT_LEAST = 8
_DROP_SOURCES = (
    "DELETE FROM sources WHERE key = ANY(%s) AND NOT EXISTS (SELECT 1 FROM spans WHERE spans.source = sources.key)"
)
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))"
_SELECT_CLAIMED = f"SELECT {ATTEMPTS.columns} FROM claimed(?, ?) AS attempts"
_END = "SELECT end_changes(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
_LOCK_SHARED = "SELECT pg_advisory_xact_lock_shared(hashtextextended(%s, 0))"
_OF_SPAN_SOURCES = "agentlightning sources"


class Overtaken(Exception):
    """Another transaction was faster; the work must be run again."""


@cache
def _translated(statement: str) -> str:
    return statement.replace("?", "%s")


def _lists(table: Table[Any], names: Sequence[str]) -> str:
    """Return the marks for the values of some columns, a list for each."""
    types = {str: "TEXT", bytes: "BYTEA", int: "BIGINT"}
    hints = get_type_hints(table.row)
    columns = [next(types[kind] for kind in (hints[name], *get_args(hints[name])) if kind in types) for name in names]
    return ", ".join(f"%b::{column}[]" for column in columns)


@cache
def _insert_keyed(table: Table[Any]) -> str:
    return f"INSERT INTO {table.name} ({', '.join(table.names)}) VALUES ({', '.join(['%s'] * len(table.names))})"


@cache
def _insert_many(table: Table[Any], *, keyed: bool = True) -> str:
    names = table.names if keyed else table.names[1:]
    return f"INSERT INTO {table.name} ({', '.join(names)}) SELECT * FROM unnest({_lists(table, names)})"


@cache
def _update_many(table: Table[Any], names: tuple[str, ...]) -> str:
    changes = ", ".join(f"{name} = new.{name}" for name in names)
    rows = f"unnest({_lists(table, (*names, 'key'))}) AS new ({', '.join(names)}, key)"
    return f"UPDATE {table.name} SET {changes} FROM {rows} WHERE {table.name}.key = new.key"


_COUNT_ATTEMPTS = "SELECT COUNT(*) FROM attempts WHERE rollout = ?"
# Each rollout will have an attempt, whose key is taken along.
_SELECT_QUEUE = f"SELECT nextval('attempts_key_seq'), {QUEUE} FOR UPDATE OF rollouts, bodies"


@dataclass(slots=True)
class _Numbers:
    """What a rollout has been given in this transaction, counted from its first number on."""

    experiment: int
    change: int
    place: int | None = None


class PostgresTx(Tx):
    """The rows inside one transaction of PostgreSQL, beside which others run.

    One that writes is of the level READ COMMITTED: what it reads in order to change it, it locks. One that only reads
    is of the level REPEATABLE READ, so that all its statements see one moment.

    Numbers of changes must be committed in their order, so those of one experiment are handed out under the lock of its
    counter, which is held to the commit. To hold it but briefly, rows get their numbers at the end, all at once.

    Attributes:
        has_written: Whether anything must be undone if a work fails.

    Args:
        connection: The database, in a transaction.
        writes: Whether it is one that writes.
    """

    _of_experiment = (*OF_EXPERIMENT, "change_counters")

    def __init__(self, connection: psycopg.Connection[Any], *, writes: bool) -> None:
        super().__init__(self._statement, Experiments())
        self.has_written = False
        self._connection = connection
        self._writes = writes
        self._numbers: Counter[int] = Counter()
        self._changed: dict[int, _Numbers] = {}
        self._buried: dict[int, tuple[int, int]] = {}
        self._tallies: Counter[tuple[int, str]] = Counter()
        self._workers: dict[tuple[int, str], WorkerRow] = {}
        self._new_sources: set[int] = set()
        self._left_sources: set[int] = set()
        self._adds_spans = False
        self._unsent: dict[tuple[Table[Any], tuple[str, ...]], list[tuple[Any, ...]]] = {}
        self._unsent_keys: set[tuple[str, int]] = set()
        self._attempt_keys: list[int] = []
        self._expected: dict[str, tuple[Sequence[Any], psycopg.Cursor[Any]]] = {}

    def begin_work(self) -> None:
        """Begin another work in this transaction."""
        self.has_written = False
        self._expected.clear()  # what was read for the one before may not be true any more

    def _statement(self, statement: str, values: Sequence[Any] = ()) -> psycopg.Cursor[Any]:
        if self._expected:
            expected, cursor = self._expected.pop(statement, (None, None))
            if cursor is not None and expected == values:
                return cursor
        if statement[0] != "S":
            self.has_written = True
        return self._send_with(statement, values)

    def _send_with(self, statement: str, values: Sequence[Any]) -> psycopg.Cursor[Any]:
        if self._unsent:
            self._send()
        return self._connection.cursor(binary=True).execute(_translated(statement), values)

    def _insert(self, table: Table[R], row: R) -> None:
        (row.key,) = self._statement(f"{table.insert} RETURNING key", table.values(row)).fetchone()  # type: ignore[attr-defined, misc]

    def _update(self, table: Table[R], row: R, changes: dict[str, Any]) -> None:
        names, key = tuple(changes), row.key  # type: ignore[attr-defined]
        self._put_off(table, names, key, (*changes.values(), key))
        for name, value in changes.items():
            setattr(row, name, value)

    def _put_off(self, table: Table[Any], names: tuple[str, ...], key: int, values: tuple[Any, ...]) -> None:
        """Write a row with the next statement that reads, together with others that are written alike.

        Args:
            table: Its table.
            names: The columns to update; none of them to insert the row.
            key: Its key.
            values: What to write.
        """
        self.has_written = True
        if (table.name, key) in self._unsent_keys:
            self._send()
        self._unsent_keys.add((table.name, key))
        self._unsent.setdefault((table, names), []).append(values)

    def _send(self) -> None:
        """Write what was put off; no row of it stands in two statements, so that their order does not matter."""
        unsent, self._unsent = self._unsent, {}
        self._unsent_keys.clear()
        for (table, names), rows in unsent.items():
            if not names and len(rows) == 1:
                self._connection.execute(_insert_keyed(table), rows[0])
            elif not names:
                self._connection.execute(_insert_many(table), _columns(rows, len(table.names)))
            elif len(rows) == 1:
                self._connection.execute(_translated(table.update(names)), rows[0])
            else:
                self._connection.execute(_update_many(table, names), _columns(rows, len(names) + 1))

    def _among(self, column: str, values: Iterable[Any]) -> tuple[str, Any]:
        return f"{column} = ANY(?)", list(values)

    def _held(self, *tables: str, skip: bool = False) -> str:
        if not self._writes:
            return ""
        return f" FOR UPDATE OF {', '.join(tables)}{' SKIP LOCKED' if skip else ''}"

    def _tally(self, experiment: int, name: str, value: int) -> None:
        self._tallies[experiment, name] += value

    def _find_experiment(self, where: str, value: Any) -> ExperimentRow | None:
        # Others may write to it meanwhile, but must not delete it.
        end = " FOR KEY SHARE" if self._writes else ""
        return self._one(EXPERIMENTS, f"{where}{end}", value)

    def delete_experiment(self, experiment: ExperimentRow) -> None:
        row = self._one(EXPERIMENTS, "key = ?", experiment.key, held=True)
        if row is None:
            raise Overtaken(f"experiment {experiment.name} was deleted")
        super().delete_experiment(experiment)
        self._numbers.pop(experiment.key, None)
        self._workers.clear()
        for key in [key for key in self._tallies if key[0] == experiment.key]:
            del self._tallies[key]
        self._changed = {key: new for key, new in self._changed.items() if new.experiment != experiment.key}
        self._buried = {key: new for key, new in self._buried.items() if new[0] != experiment.key}

    def tallies(self, experiment: int) -> dict[str, int]:
        added = {name: value for (of, name), value in self._tallies.items() if of == experiment}
        return dict(Counter(super().tallies(experiment)) + Counter(added)) if added else super().tallies(experiment)

    def span_bytes(self) -> int:
        return super().span_bytes() + sum(value for (_, name), value in self._tallies.items() if name == "span_bytes")

    def last_change(self, experiment: ExperimentRow) -> int:
        found = self._statement("SELECT last FROM change_counters WHERE experiment = ?", (experiment.key,)).fetchone()
        return 0 if found is None else int(found[0])

    def next_change(self, experiment: ExperimentRow) -> int:
        self._numbers[experiment.key] += 1
        return _UNNUMBERED + self._numbers[experiment.key]

    def add_rollout(self, row: RolloutRow, body: bytes) -> None:
        change, row.change_seq = row.change_seq, 0
        super().add_rollout(row, body)
        row.change_seq = change
        self._changed[row.key] = _Numbers(row.experiment, change - _UNNUMBERED, row.queue_place - _UNNUMBERED)
        self._tally(row.experiment, f"rollouts.{row.status}", 1)

    def update_rollout(self, row: RolloutRow, **changes: Any) -> None:
        change = changes.pop("change_seq", None)
        if change is not None:
            row.change_seq = change
            numbers = self._changed.setdefault(row.key, _Numbers(row.experiment, 0))
            numbers.change = change - _UNNUMBERED
            if "queue_place" in changes:
                numbers.place = changes["queue_place"] - _UNNUMBERED
        if changes.get("status", row.status) != row.status:
            self._tally(row.experiment, f"rollouts.{row.status}", -1)
            self._tally(row.experiment, f"rollouts.{changes['status']}", 1)
        for name in ("spans", "span_bytes"):
            self._tally(row.experiment, name, changes.get(name, getattr(row, name)) - getattr(row, name))
        if changes:
            super().update_rollout(row, **changes)

    def delete_rollout(self, row: RolloutRow) -> None:
        if row.attempts:  # the number of the last one: some may have been handed back
            (attempts,) = self._statement(_COUNT_ATTEMPTS, (row.key,)).fetchone() or (0,)
            self._tally(row.experiment, "attempts", -attempts)
        super().delete_rollout(row)
        self._changed.pop(row.key, None)
        self._tally(row.experiment, f"rollouts.{row.status}", -1)
        self._tally(row.experiment, "spans", -row.spans)
        self._tally(row.experiment, "span_bytes", -row.span_bytes)

    def expect_claim(self, experiment: int, claim_id: str, worker_id: str, limit: int) -> None:
        expected: list[tuple[str, tuple[Any, ...]]] = []  # as they are asked for, since that is the order of the locks
        if claim_id:
            expected.append((_SELECT_CLAIMED, (experiment, claim_id)))
        if worker_id and (experiment, worker_id) not in self._workers:
            expected.append((WORKERS.select(WORKER) + self._held("workers"), (experiment, worker_id)))
        if limit > 0:
            expected.append((f"{_SELECT_QUEUE} SKIP LOCKED", (experiment, 0, min(limit, _FETCHED_AT_ONCE))))
        for statement, values in expected:
            self._expected[statement] = (values, self._send_with(statement, values))

    def head_of_queue(self, experiment: int, limit: int) -> Iterator[tuple[RolloutRow, bytes]]:
        after, is_empty = 0, True
        while limit > 0:
            values = (experiment, after, min(limit, _FETCHED_AT_ONCE))
            found = self._statement(f"{_SELECT_QUEUE} SKIP LOCKED", values).fetchall()
            if not found and is_empty:  # or others have all to themselves, and may leave some in the queue
                found = self._statement(_SELECT_QUEUE, values).fetchall()
            if not found:
                return
            self._attempt_keys += [key for key, *_ in found]
            rollouts = [queued(values) for _, *values in found]
            yield from rollouts
            is_empty = False
            after = rollouts[-1][0].queue_place
            limit -= len(rollouts)

    def id_in_use(self, experiment: int, rollout_id: str) -> tuple[bool, bool]:
        # In this order: whoever deletes it holds the rollout until the tombstone can be seen.
        exists = self._statement(
            f"SELECT 1 FROM rollouts WHERE experiment = ? AND rollout_id = ?{self._held('rollouts')}",
            (experiment, rollout_id),
        )
        deleted = self._statement(
            "SELECT 1 FROM tombstones WHERE experiment = ? AND rollout_id = ?", (experiment, rollout_id)
        )
        return exists.fetchone() is not None, deleted.fetchone() is not None

    def add_tombstone(self, row: TombstoneRow) -> None:
        change, row.change_seq = row.change_seq, 0
        super().add_tombstone(row)
        row.change_seq = change
        self._buried[row.key] = (row.experiment, change - _UNNUMBERED)

    def claimed_attempts(self, experiment: int, claim_id: str) -> list[AttemptRow]:
        return [AttemptRow(*found) for found in self._statement(_SELECT_CLAIMED, (experiment, claim_id))]

    def add_attempt(self, row: AttemptRow) -> None:
        if self._attempt_keys:
            row.key = self._attempt_keys.pop(0)
            self._put_off(ATTEMPTS, (), row.key, (row.key, *ATTEMPTS.values(row)))
        else:
            super().add_attempt(row)
        self._tally(row.experiment, "attempts", 1)

    def update_attempt(self, row: AttemptRow, **changes: Any) -> None:
        evicted = changes.get("evicted_spans", row.evicted_spans) - row.evicted_spans
        self._tally(row.experiment, "evicted_spans", evicted)
        super().update_attempt(row, **changes)

    def delete_attempt(self, row: AttemptRow) -> None:
        super().delete_attempt(row)
        self._tally(row.experiment, "attempts", -1)

    def add_resources(self, row: ResourcesRow) -> None:
        super().add_resources(row)
        self._tally(row.experiment, "resources", 1)

    def worker(self, experiment: int, worker_id: str) -> WorkerRow | None:
        row = self._workers.get((experiment, worker_id))  # nobody else can have changed it
        if row is None:
            row = super().worker(experiment, worker_id)
            if row is not None and self._writes:
                self._workers[experiment, worker_id] = row
        return row

    def add_worker(self, row: WorkerRow) -> None:
        super().add_worker(row)
        self._workers[row.experiment, row.worker_id] = row
        self._tally(row.experiment, "workers", 1)

    def source(self, experiment: int, fingerprint: bytes, body: bytes) -> int:
        if not self._adds_spans:  # nobody may delete it as unused until the spans can be seen
            self._connection.execute(_LOCK_SHARED, (_OF_SPAN_SOURCES,))
            self._adds_spans = True
        key = (experiment, fingerprint)
        while True:
            found = self._statement("SELECT key FROM sources WHERE experiment = ? AND fingerprint = ?", key).fetchone()
            if found is not None:
                return int(found[0])
            new = self._statement(
                "INSERT INTO sources (experiment, fingerprint, body) VALUES (?, ?, ?) ON CONFLICT DO NOTHING "
                "RETURNING key",
                (*key, body),
            ).fetchone()
            if new is not None:
                self._new_sources.add(new[0])
                return int(new[0])

    def drop_unused_sources(self, keys: Iterable[int]) -> None:
        new = self._new_sources.intersection(keys)  # none but this transaction knows them
        if new:
            self._statement(_DROP_SOURCES, (list(new),))

    def add_spans(self, rows: Sequence[SpanRow]) -> None:
        self.has_written = True
        self._send()
        self._connection.execute(
            _insert_many(SPANS, keyed=False), _columns([SPANS.values(row) for row in rows], len(SPANS.names) - 1)
        )

    def delete_spans(self, rollout: int) -> None:
        sources = self._statement("SELECT DISTINCT source FROM spans WHERE rollout = ?", (rollout,))
        self._left_sources.update(source for (source,) in sources)
        self._statement("DELETE FROM spans WHERE rollout = ?", (rollout,))

    def _key(self, table: Table[Any], query: Query) -> str:
        key = super()._key(table, query)
        if query.of_state:
            return KEY_OF_STATE.format(key)
        is_of_experiment = query.order == "created" and "experiment" in table.names
        return KEY_OF_EXPERIMENT.format(key) if is_of_experiment else key

    def _found(self, table: Table[Any], query: Query, source: str) -> Iterator[tuple[Sequence[Any], int]]:
        """Fetch rows as they are asked for: a client of PostgreSQL holds all that a statement finds in memory."""
        size = max(_FETCHED_AT_ONCE // query.merged, _FETCHED_AT_LEAST)
        page = replace(query, limit=min(query.limit, size))
        return self._pages(table, query, source, size, super()._found(table, page, source))

    def _pages(
        self, table: Table[Any], query: Query, source: str, size: int, page: Iterator[tuple[Sequence[Any], int]]
    ) -> Iterator[tuple[Sequence[Any], int]]:
        left = query.limit
        while found := list(page):
            yield from found
            left -= len(found)
            if left <= 0 or len(found) < size:
                return
            values, width = found[-1]
            after: Position = list(values[:width])
            page = super()._found(table, replace(query, after=after, skip=0, limit=min(left, size)), source)

    def commit(self, notice: str) -> None:
        """End the transaction: give rows their numbers, tell other servers, commit.

        Args:
            notice: What to tell them; nothing if it is empty.
        """
        self._send()
        if self._left_sources:
            self._connection.execute(_LOCK, (_OF_SPAN_SOURCES,))
            self._connection.execute(_DROP_SOURCES, (list(self._left_sources),))
        tallies = [(*key, value) for key, value in self._tallies.items() if value]
        # In one order, so that no two transactions wait for each other.
        numbers = sorted(self._numbers.items())
        changed = [(key, new.experiment, new.change, new.place) for key, new in self._changed.items()]
        buried = [(key, *new) for key, new in self._buried.items()]
        if tallies or numbers or notice:
            columns = [*_columns(tallies, 3), *_columns(numbers, 2), *_columns(changed, 4), *_columns(buried, 3)]
            self._connection.execute(_END, (*columns, notice))
        self._connection.execute("COMMIT")


def _columns(rows: Sequence[Sequence[Any]], width: int) -> list[list[Any]]:
    return [[row[column] for row in rows] for column in range(width)]
