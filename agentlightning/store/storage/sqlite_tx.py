"""Rows in SQLite."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from agentlightning.store.storage.queries import Condition
from agentlightning.store.storage.rows import ExperimentRow, SpanRow
from agentlightning.store.storage.schema import SPANS, Table
from agentlightning.store.storage.tx import Experiments, R, Tx

_SELECT_LAST_CHANGE = (
    "SELECT MAX(COALESCE((SELECT MAX(change_seq) FROM rollouts WHERE experiment = ?), 0), "
    "COALESCE((SELECT MAX(change_seq) FROM tombstones WHERE experiment = ?), 0), "
    "COALESCE((SELECT forgotten_seq FROM experiments WHERE key = ?), 0))"
)


class SqliteTx(Tx):
    """The rows inside one transaction of SQLite, which has one writer at a time.

    Args:
        connection: The database, in a transaction.
        known: What the only writer remembers; None remembers nothing. Forgotten by whoever rolls back.
    """

    _sorted = "+"  # or the index that has this order may be walked to its end

    def __init__(self, connection: sqlite3.Connection, known: Experiments | None = None) -> None:
        super().__init__(connection.execute, Experiments() if known is None else known)
        self._connection = connection

    def _insert(self, table: Table[R], row: R) -> None:
        row.key = self._connection.execute(table.insert, table.values(row)).lastrowid  # type: ignore[attr-defined]

    def _among(self, column: str, values: Iterable[Any]) -> tuple[str, Any]:
        return f"{column} IN (SELECT value FROM json_each(?))", json.dumps(list(values))

    def _clause(self, table: Table[Any], condition: Condition, values: list[Any]) -> str:
        if condition.op == "equals" and condition.column in table.states:
            # Those of all states are open at once: of one text, each but the first would be compiled anew.
            return f"{table.name}.{condition.column} = {condition.value:d}"
        return super()._clause(table, condition, values)

    def last_change(self, experiment: ExperimentRow) -> int:
        last = self._known.changes.get(experiment.key)
        if last is None:
            (last,) = self._execute(_SELECT_LAST_CHANGE, [experiment.key] * 3).fetchone()
            self._known.changes[experiment.key] = last
        return last

    def next_change(self, experiment: ExperimentRow) -> int:
        number = self.last_change(experiment) + 1
        self._known.changes[experiment.key] = number
        return number

    def source(self, experiment: int, fingerprint: bytes, body: bytes) -> int:
        found = self._execute(
            "SELECT key FROM sources WHERE experiment = ? AND fingerprint = ?", (experiment, fingerprint)
        ).fetchone()
        if found is not None:
            return int(found[0])
        cursor = self._connection.execute(
            "INSERT INTO sources (experiment, fingerprint, spans, body) VALUES (?, ?, 0, ?)",
            (experiment, fingerprint, body),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def drop_unused_sources(self, keys: Iterable[int]) -> None:
        for key in keys:
            self._execute("DELETE FROM sources WHERE key = ? AND spans <= 0", (key,))

    def add_spans(self, rows: Sequence[SpanRow]) -> None:
        self._connection.executemany(SPANS.insert, map(SPANS.values, rows))
        for source, count in Counter(row.source for row in rows).items():
            self._execute("UPDATE sources SET spans = spans + ? WHERE key = ?", (count, source))

    def delete_spans(self, rollout: int) -> None:
        counts = self._execute(
            "SELECT source, COUNT(*) FROM spans WHERE rollout = ? GROUP BY source", (rollout,)
        ).fetchall()
        self._execute("DELETE FROM spans WHERE rollout = ?", (rollout,))
        for source, count in counts:
            self._execute("UPDATE sources SET spans = spans - ? WHERE key = ?", (count, source))
        self.drop_unused_sources(source for source, _ in counts)
