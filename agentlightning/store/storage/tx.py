"""What a work can do with the rows, inside its transaction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from heapq import merge
from itertools import chain, islice
from typing import Any, NamedTuple, Protocol, TypeVar

from agentlightning.store.storage.queries import Condition, Part, Position, Query, divided
from agentlightning.store.storage.rows import (
    AttemptRow,
    ExperimentRow,
    ResourcesRow,
    RolloutRow,
    SpanRow,
    TombstoneRow,
    WorkerRow,
)
from agentlightning.store.storage.schema import (
    ATTEMPTS,
    EXPERIMENTS,
    LIVE_ATTEMPT,
    RESOURCES,
    ROLLOUTS,
    SPANS,
    TOMBSTONES,
    WORKERS,
    Table,
)
from agentlightning.store.storage.signals import Signal

R = TypeVar("R")


SpanIdentity = tuple[int, bytes, bytes]
"""What tells a span from all others: the key of its attempt, its span id, its trace id."""


class Experiments:
    """What is remembered of experiments: for one transaction, or by the only writer of a database for longer."""

    def __init__(self) -> None:
        self.rows: dict[str, ExperimentRow] = {}
        self.changes: dict[int, int] = {}
        """The number of the last change, by the experiment's key."""

    def clear(self) -> None:
        """Forget everything: after a transaction that was rolled back, it may not be true."""
        self.rows.clear()
        self.changes.clear()


class Found(Protocol):
    """What a statement found: rows, which can be walked once."""

    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Any]: ...
    def __iter__(self) -> Iterator[Any]: ...


class RolloutView(NamedTuple):
    """A rollout with what stands apart from its row."""

    row: RolloutRow
    body: bytes
    attempt: AttemptRow | None


OF_EXPERIMENT = ("attempts", "rollouts", "sources", "resources", "workers", "tombstones", "tallies")
"""The tables whose rows belong to an experiment."""

_HEX_COLUMNS = {"trace_id", "span_id", "parent_id"}
_VIEW = (
    f"{ROLLOUTS.columns}, bodies.body, {ATTEMPTS.columns} FROM rollouts "
    "JOIN bodies ON bodies.rollout = rollouts.key LEFT JOIN attempts ON attempts.key = rollouts.last_attempt"
)
_SELECT_ID = (
    "SELECT EXISTS (SELECT 1 FROM rollouts WHERE experiment = ? AND rollout_id = ?), "
    "EXISTS (SELECT 1 FROM tombstones WHERE experiment = ? AND rollout_id = ?)"
)
_SELECT_VIEW = f"SELECT {_VIEW} WHERE rollouts.experiment = ? AND rollouts.rollout_id = ?"
QUEUE = (
    f"{ROLLOUTS.columns}, bodies.body FROM rollouts JOIN bodies ON bodies.rollout = rollouts.key "
    "WHERE rollouts.experiment = ? AND rollouts.queued = 1 AND queue_place > ? ORDER BY queue_place LIMIT ?"
)
"""What of a queue is read, with its experiment, the place to begin after, and the most rollouts."""
WORKER = "experiment = ? AND worker_id = ?"
"""Which worker is meant."""
_SELECT_ATTEMPTS = f"SELECT {ATTEMPTS.columns} FROM attempts JOIN rollouts ON rollouts.key = attempts.rollout WHERE"
_SELECT_TALLIES = "SELECT name, CAST(SUM(value) AS BIGINT) FROM tallies WHERE experiment = ? GROUP BY name"
_SELECT_CHANGES = (
    f"SELECT {_VIEW} WHERE rollouts.experiment = ? AND rollouts.change_seq > ? ORDER BY rollouts.change_seq LIMIT ?"
)
(_END,) = ROLLOUTS.order["end_time"]
_LOOKED_UP_AT_ONCE = 64
_SELECT_IDENTITIES = (
    "SELECT span_id, trace_id, sequence_id FROM spans WHERE attempt = ? "
    f"AND span_id IN ({', '.join('?' * _LOOKED_UP_AT_ONCE)})"
)
_WIDTH = len(ROLLOUTS.names)


def queued(values: Sequence[Any]) -> tuple[RolloutRow, bytes]:
    """Return a rollout of the queue with its body."""
    return RolloutRow(*values[:_WIDTH]), values[_WIDTH]


def _view(values: Sequence[Any]) -> RolloutView:
    attempt = None if values[_WIDTH + 1] is None else AttemptRow(*values[_WIDTH + 1 :])
    return RolloutView(RolloutRow(*values[:_WIDTH]), values[_WIDTH], attempt)


class Tx(ABC):
    """The rows inside one transaction. Rows that are handed out are not written by being changed: the
    `update` methods write, and bring the row up to date.

    A work that writes has each rollout, with all that belongs to it, and each worker that it has read to itself until
    its transaction ends. What stands here is said in SQL that all databases understand, with `?` for each value; the
    class of each storage says the rest.

    Attributes:
        signals: What to tell those who wait, after the commit.

    Args:
        execute: Runs a statement with its values.
        known: What is remembered of experiments. Forgotten by whoever rolls back.
    """

    _of_experiment: Sequence[str] = OF_EXPERIMENT
    _sorted = ""
    """Stands before a column by which a few rows, found by their ids, are to be sorted."""

    def __init__(self, execute: Callable[..., Found], known: Experiments) -> None:
        self._execute = execute
        self._known = known
        self.signals: list[Signal] = []

    @abstractmethod
    def _insert(self, table: Table[R], row: R) -> None:
        """Insert a row, and give it its key."""

    @abstractmethod
    def _among(self, column: str, values: Iterable[Any]) -> tuple[str, Any]:
        """Return the condition that a column has one of the values, and what to bind in it."""

    def _held(self, *tables: str, skip: bool = False) -> str:
        """Return the end of a SELECT that keeps the rows of some tables to this transaction, if it writes.

        Args:
            tables: Those of the SELECT that are meant.
            skip: True leaves out the rows that other transactions have to themselves, and waits for none.
        """
        return ""

    def _one(self, table: Table[R], where: str, *values: Any, held: bool = False) -> R | None:
        end = self._held(table.name) if held else ""
        found = self._execute(table.select(where) + end, values).fetchone()
        return None if found is None else table.row(*found)

    def _all(self, table: Table[R], where: str, *values: Any) -> list[R]:
        return [table.row(*found) for found in self._execute(table.select(where), values)]

    def _attempts_held(self, where: str, *values: Any, skip: bool = False) -> list[AttemptRow]:
        """Return attempts, and keep them and their rollouts to this transaction."""
        end = self._held("rollouts", "attempts", skip=skip)
        return [AttemptRow(*found) for found in self._execute(f"{_SELECT_ATTEMPTS} {where}{end}", values)]

    def _update(self, table: Table[R], row: R, changes: dict[str, Any]) -> None:
        self._execute(table.update(tuple(changes)), [*changes.values(), row.key])  # type: ignore[attr-defined]
        for name, value in changes.items():
            setattr(row, name, value)

    def experiment(self, name: str) -> ExperimentRow | None:
        """Return an experiment by its name."""
        row = self._known.rows.get(name)
        if row is None:
            row = self._find_experiment("name = ?", name)
            if row is not None:
                self._known.rows[name] = row
        return row

    @abstractmethod
    def last_change(self, experiment: ExperimentRow) -> int:
        """Return the number of the last change in an experiment, 0 when there was none."""

    @abstractmethod
    def next_change(self, experiment: ExperimentRow) -> int:
        """Return the number of the next change in an experiment; it must be written to a row."""

    def experiment_by_key(self, key: int) -> ExperimentRow:
        """Return an experiment that exists."""
        for row in self._known.rows.values():
            if row.key == key:
                return row
        found = self._find_experiment("key = ?", key)
        assert found is not None
        return found

    def _find_experiment(self, where: str, value: Any) -> ExperimentRow | None:
        return self._one(EXPERIMENTS, where, value)

    def add_experiment(self, row: ExperimentRow) -> None:
        """Insert an experiment."""
        self._insert(EXPERIMENTS, row)

    def update_experiment(self, row: ExperimentRow, **changes: Any) -> None:
        """Write some columns of an experiment."""
        self._update(EXPERIMENTS, row, changes)

    def delete_experiment(self, experiment: ExperimentRow) -> None:
        """Delete an experiment with everything in it."""
        own = "(SELECT key FROM rollouts WHERE experiment = ?)"
        key = (experiment.key,)
        self._execute(f"DELETE FROM spans WHERE rollout IN {own}", key)
        self._execute(f"DELETE FROM bodies WHERE rollout IN {own}", key)
        for table in self._of_experiment:
            self._execute(f"DELETE FROM {table} WHERE experiment = ?", key)
        self._execute("DELETE FROM experiments WHERE key = ?", key)
        self._known.clear()

    def tallies(self, experiment: int) -> dict[str, int]:
        """Return the totals of an experiment by name; absent ones are zero."""
        return dict(self._execute(_SELECT_TALLIES, (experiment,)))

    def span_bytes(self) -> int:
        """Return the bytes of the spans of all experiments."""
        (total,) = self._execute("SELECT SUM(value) FROM tallies WHERE name = 'span_bytes'").fetchone()
        return int(total or 0)

    def rollout(self, experiment: int, rollout_id: str) -> RolloutRow | None:
        """Return the state of a rollout."""
        return self._one(ROLLOUTS, "experiment = ? AND rollout_id = ?", experiment, rollout_id, held=True)

    def rollout_by_key(self, key: int) -> RolloutRow:
        """Return the state of a rollout that exists."""
        found = self._one(ROLLOUTS, "key = ?", key, held=True)
        assert found is not None
        return found

    def rollout_view(self, experiment: int, rollout_id: str) -> RolloutView | None:
        """Return a rollout with its body and latest attempt."""
        found = self._execute(_SELECT_VIEW, (experiment, rollout_id)).fetchone()
        return None if found is None else _view(found)

    def finished(self, experiment: int, rollout_ids: Iterable[str], statuses: Iterable[int]) -> dict[str, bool]:
        """Tell for each of the named rollouts that exist whether its status is one of `statuses`."""
        wanted = set(statuses)
        named, ids = self._among("rollout_id", rollout_ids)
        found = self._execute(
            f"SELECT rollout_id, status FROM rollouts WHERE experiment = ? AND {named}", (experiment, ids)
        )
        return {rollout_id: status in wanted for rollout_id, status in found}

    def add_rollout(self, row: RolloutRow, body: bytes) -> None:
        """Insert a rollout."""
        self._insert(ROLLOUTS, row)
        self._execute("INSERT INTO bodies (rollout, body) VALUES (?, ?)", (row.key, body))

    def update_rollout(self, row: RolloutRow, **changes: Any) -> None:
        """Write some columns of a rollout."""
        self._update(ROLLOUTS, row, changes)

    def body(self, row: RolloutRow) -> bytes:
        """Return the body of a rollout."""
        found: bytes = self._execute("SELECT body FROM bodies WHERE rollout = ?", (row.key,)).fetchone()[0]
        return found

    def set_body(self, row: RolloutRow, body: bytes) -> None:
        """Replace the body of a rollout."""
        self._execute("UPDATE bodies SET body = ? WHERE rollout = ?", (body, row.key))

    def rollout_id_of(self, attempt: AttemptRow) -> str:
        """Return the id of the rollout of an attempt, for others to change meanwhile."""
        found: str = self._execute("SELECT rollout_id FROM rollouts WHERE key = ?", (attempt.rollout,)).fetchone()[0]
        return found

    def expect_claim(self, experiment: int, claim_id: str, worker_id: str, limit: int) -> None:
        """Hear what a claim is going to read, so that it need not wait for one after the other.

        Args:
            experiment: The experiment.
            claim_id: The claim that may have been made before; empty if none can have been.
            worker_id: The worker who claims; empty for none.
            limit: The most rollouts to take out of the queue.
        """
        return  # nothing is gained where a read is no journey

    def head_of_queue(self, experiment: int, limit: int) -> Iterator[tuple[RolloutRow, bytes]]:
        """Return the first rollouts of the queue with their bodies, read as they are asked for."""
        return map(queued, self._execute(f"SELECT {QUEUE}", (experiment, 0, limit)))

    def changed_rollouts(self, experiment: int, after: int, limit: int) -> Iterator[RolloutView]:
        """Return the rollouts whose last change has a number above `after`, in the order of those numbers."""
        return map(_view, self._execute(_SELECT_CHANGES, (experiment, after, limit)))

    def evictable_rollouts(self, limit: int) -> list[RolloutRow]:
        """Return the oldest rollouts of all experiments that have spans and are finished."""
        return self._all(ROLLOUTS, "spans > 0 AND end_time IS NOT NULL ORDER BY start_time, key LIMIT ?", limit)

    def delete_rollout(self, row: RolloutRow) -> None:
        """Delete a rollout with its body, attempts and spans."""
        if row.spans:
            self.delete_spans(row.key)
        for table in ("bodies", "attempts") if row.attempts else ("bodies",):
            self._execute(f"DELETE FROM {table} WHERE rollout = ?", (row.key,))
        self._execute("DELETE FROM rollouts WHERE key = ?", (row.key,))

    def id_in_use(self, experiment: int, rollout_id: str) -> tuple[bool, bool]:
        """Tell whether a rollout of this id exists, and whether one was deleted."""
        exists, deleted = self._execute(_SELECT_ID, (experiment, rollout_id, experiment, rollout_id)).fetchone()
        return bool(exists), bool(deleted)

    def add_tombstone(self, row: TombstoneRow) -> None:
        """Insert a tombstone."""
        self._insert(TOMBSTONES, row)

    def tombstones(self, experiment: int, after: int, limit: int) -> list[TombstoneRow]:
        """Return the deletions with a number above `after`, in the order of those numbers."""
        return self._all(
            TOMBSTONES, "experiment = ? AND change_seq > ? ORDER BY change_seq LIMIT ?", experiment, after, limit
        )

    def oldest_tombstone(self) -> int | None:
        """Return the time of the oldest deletion that is remembered."""
        found = self._execute("SELECT MIN(delete_time) FROM tombstones").fetchone()[0]
        return None if found is None else int(found)

    def old_tombstones(self, before: int, limit: int) -> list[TombstoneRow]:
        """Return the deletions of all experiments before a time, the oldest first."""
        return self._all(TOMBSTONES, "delete_time < ? ORDER BY delete_time LIMIT ?", before, limit)

    def forget_tombstones(self, rows: Iterable[TombstoneRow]) -> None:
        """Delete tombstones, and note in each experiment how far they reached."""
        reached: dict[int, int] = {}
        for row in rows:
            reached[row.experiment] = max(row.change_seq, reached.get(row.experiment, 0))
            self._execute("DELETE FROM tombstones WHERE key = ?", (row.key,))
        for experiment, seq in sorted(reached.items()):
            self._execute(
                "UPDATE experiments SET forgotten_seq = ? WHERE key = ? AND forgotten_seq < ?", (seq, experiment, seq)
            )
        if reached:
            self._known.clear()

    def attempt(self, rollout: int, attempt_id: str) -> AttemptRow | None:
        """Return an attempt of a rollout."""
        return self._one(ATTEMPTS, "rollout = ? AND attempt_id = ?", rollout, attempt_id)

    def attempt_by_key(self, key: int) -> AttemptRow | None:
        """Return an attempt."""
        return self._one(ATTEMPTS, "key = ?", key)

    def attempts(self, rollout: int) -> list[AttemptRow]:
        """Return the attempts of a rollout in their order."""
        return self._all(ATTEMPTS, "rollout = ? ORDER BY sequence_id", rollout)

    def claimed_attempts(self, experiment: int, claim_id: str) -> list[AttemptRow]:
        """Return the attempts that a claim made, in their order."""
        return self._attempts_held(
            "attempts.experiment = ? AND attempts.claim_id = ? ORDER BY attempts.key", experiment, claim_id
        )

    def live_attempt_of(self, experiment: int, worker_id: str) -> AttemptRow | None:
        """Return the live attempt that a worker took on last."""
        return self._one(
            ATTEMPTS,
            f"experiment = ? AND worker_id = ? AND {LIVE_ATTEMPT} ORDER BY key DESC LIMIT 1",
            experiment,
            worker_id,
        )

    def due_attempts(self, until: int, limit: int) -> list[AttemptRow]:
        """Return the attempts of all experiments that the watchdog must look at, the most urgent and oldest first.

        Those that somebody is changing just now may be left out.
        """
        return self._attempts_held(
            "attempts.expires_at IS NOT NULL AND attempts.expires_at <= ? "
            "ORDER BY attempts.expires_at, attempts.key LIMIT ?",
            until,
            limit,
            skip=True,
        )

    def watched_attempts(self, after: int, limit: int) -> list[AttemptRow]:
        """Return the attempts of all experiments that have an expiry and a key above `after`, by key.

        Those that somebody is changing just now may be left out.
        """
        return self._attempts_held(
            "attempts.expires_at IS NOT NULL AND +attempts.key > ? ORDER BY +attempts.key LIMIT ?",
            after,
            limit,
            skip=True,
        )

    def next_expiry(self) -> int | None:
        """Return the earliest time at which the watchdog must look at an attempt."""
        found: int | None = self._execute(
            "SELECT MIN(expires_at) FROM attempts WHERE expires_at IS NOT NULL"
        ).fetchone()[0]
        return found

    def add_attempt(self, row: AttemptRow) -> None:
        """Insert an attempt."""
        self._insert(ATTEMPTS, row)

    def update_attempt(self, row: AttemptRow, **changes: Any) -> None:
        """Write some columns of an attempt."""
        self._update(ATTEMPTS, row, changes)

    def delete_attempt(self, row: AttemptRow) -> None:
        """Delete an attempt that has no spans."""
        self._execute("DELETE FROM attempts WHERE key = ?", (row.key,))

    def last_attempt(self, rollout: int) -> AttemptRow | None:
        """Return the attempt of a rollout with the highest number."""
        return self._one(ATTEMPTS, "rollout = ? ORDER BY sequence_id DESC LIMIT 1", rollout)

    @abstractmethod
    def source(self, experiment: int, fingerprint: bytes, body: bytes) -> int:
        """Return the key of a resource and scope, and keep it if it is new."""

    def source_body(self, key: int) -> bytes:
        """Return a resource and scope."""
        found: bytes = self._execute("SELECT body FROM sources WHERE key = ?", (key,)).fetchone()[0]
        return found

    @abstractmethod
    def drop_unused_sources(self, keys: Iterable[int]) -> None:
        """Delete those of the resources and scopes that no span came from."""

    def stored_spans(self, identities: Iterable[SpanIdentity]) -> dict[SpanIdentity, int]:
        """Return the numbers of those of the spans that are stored."""
        by_attempt: dict[int, list[bytes]] = {}
        for attempt, span_id, _ in identities:
            by_attempt.setdefault(attempt, []).append(span_id)
        found: dict[SpanIdentity, int] = {}
        for attempt, span_ids in by_attempt.items():
            for start in range(0, len(span_ids), _LOOKED_UP_AT_ONCE):
                wanted = span_ids[start : start + _LOOKED_UP_AT_ONCE]
                wanted += [b""] * (_LOOKED_UP_AT_ONCE - len(wanted))  # one statement for every number of them
                for span_id, trace_id, number in self._execute(_SELECT_IDENTITIES, (attempt, *wanted)):
                    found[attempt, span_id, trace_id] = number
        return found

    @abstractmethod
    def add_spans(self, rows: Sequence[SpanRow]) -> None:
        """Insert spans whose identities are new."""

    def span_counts(self, rollout: int) -> dict[int, int]:
        """Return the number of spans of each attempt of a rollout, by the attempt's key."""
        return dict(self._execute("SELECT attempt, COUNT(*) FROM spans WHERE rollout = ? GROUP BY attempt", (rollout,)))

    @abstractmethod
    def delete_spans(self, rollout: int) -> None:
        """Delete the spans of a rollout, and the resources and scopes that no other span came from."""

    def resources(self, experiment: int, resources_id: str, *, held: bool = False) -> ResourcesRow | None:
        """Return a set of resources; `held` keeps it to this transaction, to be changed."""
        return self._one(RESOURCES, "experiment = ? AND resources_id = ?", experiment, resources_id, held=held)

    def resources_by_key(self, key: int) -> ResourcesRow | None:
        """Return a set of resources."""
        return self._one(RESOURCES, "key = ?", key)

    def add_resources(self, row: ResourcesRow) -> None:
        """Insert a set of resources."""
        self._insert(RESOURCES, row)

    def update_resources(self, row: ResourcesRow, **changes: Any) -> None:
        """Write some columns of a set of resources."""
        self._update(RESOURCES, row, changes)

    def worker(self, experiment: int, worker_id: str) -> WorkerRow | None:
        """Return a worker."""
        return self._one(WORKERS, WORKER, experiment, worker_id, held=True)

    def add_worker(self, row: WorkerRow) -> None:
        """Insert a worker."""
        self._insert(WORKERS, row)

    def update_worker(self, row: WorkerRow, **changes: Any) -> None:
        """Write some columns of a worker."""
        self._update(WORKERS, row, changes)

    def experiments(self, query: Query) -> Iterator[tuple[ExperimentRow, Position]]:
        """Return experiments, each with its position."""
        return self._list(EXPERIMENTS, query)

    def rollout_list(self, query: Query) -> Iterator[tuple[RolloutView, Position]]:
        """Return rollouts, each with its position."""
        return ((_view(found[width:]), list(found[:width])) for found, width in self._select(ROLLOUTS, query, _VIEW))

    def rollouts_to_delete(self, query: Query) -> list[RolloutRow]:
        """Return the states of rollouts, those of one state after those of another."""
        rows: list[RolloutRow] = []
        parts = divided(ROLLOUTS, query)
        for one in [query] if parts is None else chain.from_iterable(part.queries for part in parts):
            where, values = self._match(ROLLOUTS, one)
            sign = self._sorted if one.names_rows else ""
            statement = f"{where} ORDER BY {sign}{self._key(ROLLOUTS, one)} LIMIT ?{self._held('rollouts')}"
            rows += self._all(ROLLOUTS, statement, *values, query.limit - len(rows))
            if len(rows) == query.limit:
                break
        return rows

    def finished_rollouts(self, experiment: int, before: int, limit: int) -> list[RolloutRow]:
        """Return the rollouts of an experiment that have ended before a time, the first to end first.

        Those of them that somebody is changing just now may be left out; none that ended later takes their places.
        """
        first = f"SELECT key FROM rollouts WHERE experiment = ? AND {_END} < ? ORDER BY {_END}, key LIMIT ?"
        # Asked for again outside: whoever changed one since it was chosen may have taken it up again.
        where = f"rollouts.key IN ({first}) AND {self._sorted}{_END} < ?"
        order = f"{self._sorted}{_END}, {self._sorted}rollouts.key"
        end = self._held("rollouts", skip=True)
        return self._all(ROLLOUTS, f"{where} ORDER BY {order}{end}", experiment, before, limit, before)

    def first_end(self, experiment: int) -> int | None:
        """Return when the first of the finished rollouts of an experiment has ended."""
        statement = f"SELECT end_time FROM rollouts WHERE experiment = ? ORDER BY {_END} LIMIT 1"
        found = self._execute(statement, (experiment,)).fetchone()
        return None if found is None else found[0]

    def attempt_list(self, query: Query) -> Iterator[tuple[AttemptRow, Position]]:
        """Return attempts, each with its position."""
        return self._list(ATTEMPTS, query)

    def span_list(self, query: Query) -> Iterator[tuple[SpanRow, Position]]:
        """Return spans, each with its position."""
        return self._list(SPANS, query)

    def resources_list(self, query: Query) -> Iterator[tuple[ResourcesRow, Position]]:
        """Return sets of resources, each with its position."""
        return self._list(RESOURCES, query)

    def worker_list(self, query: Query) -> Iterator[tuple[WorkerRow, Position]]:
        """Return workers, each with its position."""
        return self._list(WORKERS, query)

    def total(self, table: Table[Any], query: Query) -> int:
        """Return the number of rows that match, whatever the page."""
        where, values = self._match(table, query)
        return int(self._execute(f"SELECT COUNT(*) FROM {table.name} WHERE {where}", values).fetchone()[0])

    def _list(self, table: Table[R], query: Query) -> Iterator[tuple[R, Position]]:
        source = f"{table.columns} FROM {table.name}"
        return ((table.row(*found[width:]), list(found[:width])) for found, width in self._select(table, query, source))

    def _select(self, table: Table[Any], query: Query, source: str) -> Iterator[tuple[Sequence[Any], int]]:
        """Return what was found of each row, behind its position, and the length of that."""
        parts = divided(table, query)
        if parts is None:
            return self._found(table, query, source)
        whole = replace(query, skip=0, limit=query.skip + query.limit)
        rows = chain.from_iterable(self._merged(table, part, whole, source) for part in parts)
        return islice(rows, query.skip, query.skip + query.limit)

    def _merged(self, table: Table[Any], part: Part, whole: Query, source: str) -> Iterator[tuple[Sequence[Any], int]]:
        queries = [replace(query, skip=0, limit=whole.limit, merged=len(part.queries)) for query in part.queries]
        found = [self._found(table, query, source) for query in queries]
        for row, width in merge(*found, key=lambda one: one[0][0], reverse=whole.descending):
            yield (*part.lead, *row), len(part.lead) + width

    def _found(self, table: Table[Any], query: Query, source: str) -> Iterator[tuple[Sequence[Any], int]]:
        """Run one statement, at once; its rows are read as they are asked for."""
        where, values = self._match(table, query)
        order = [*table.order[query.order], self._key(table, query)]
        if query.after is not None:
            marks = ", ".join("?" * len(order))
            where += f" AND ({', '.join(order)}) {'<' if query.descending else '>'} ({marks})"
            values += query.after
        sign, direction = self._sorted if query.names_rows else "", " DESC" if query.descending else ""
        statement = (
            f"SELECT {', '.join(order)}, {source} WHERE {where} "
            f"ORDER BY {', '.join(sign + column + direction for column in order)} LIMIT ? OFFSET ?"
        )
        return ((found, len(order)) for found in self._execute(statement, [*values, query.limit, query.skip]))

    def _key(self, table: Table[Any], query: Query) -> str:
        """Return what a list is sorted by in the end: the key, as the index has it that the list is to be read from."""
        return f"{table.name}.key"

    def _match(self, table: Table[Any], query: Query) -> tuple[str, list[Any]]:
        """Return the WHERE clause of a query without its page, and the values in it."""
        values: list[Any] = []
        clauses = [self._clause(table, condition, values) for condition in query.must]
        filters = [self._clause(table, condition, values) for condition in query.conditions]
        if filters:
            clauses.append(f"({(' OR ' if query.match_any else ' AND ').join(filters)})")
        return " AND ".join(clauses) or "TRUE", values

    def _clause(self, table: Table[Any], condition: Condition, values: list[Any]) -> str:
        column = f"{table.name}.{condition.column}"
        if condition.column in _HEX_COLUMNS:
            column = f"COALESCE(lower(hex({column})), '')"
        if condition.op == "in":
            clause, value = self._among(column, condition.value)
        else:
            clause, value = f"{column} = ?" if condition.op == "equals" else f"instr({column}, ?) > 0", condition.value
        values.append(value)
        return clause
