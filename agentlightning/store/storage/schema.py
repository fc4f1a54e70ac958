"""How rows map to the tables of the storages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from operator import attrgetter
from typing import Generic, TypeVar

from agentlightning.store.storage.rows import (
    END_OF_TIME,
    AttemptRow,
    ExperimentRow,
    ResourcesRow,
    RolloutRow,
    SpanRow,
    TombstoneRow,
    WorkerRow,
)
from lightning_store import v1

R = TypeVar("R")


class Table(Generic[R]):
    """Maps one dataclass to one table: a column for each field, `key` being the primary key.

    Args:
        name: Name of the table.
        row: The dataclass.
        order: What lists may be sorted by, under its names in the contract: expressions that are never NULL. The key
            breaks ties and is not named.
        states: The columns of few values that lists are filtered and sorted by, with the word that each value is
            sorted as. Rows of one value in each of them have an index in the order of their keys.
    """

    def __init__(
        self,
        name: str,
        row: type[R],
        order: Mapping[str, tuple[str, ...]] | None = None,
        states: Mapping[str, Mapping[int, str]] | None = None,
    ) -> None:
        self.name = name
        self.row = row
        self.order = order or {}
        self.states = states or {}
        names = [field.name for field in fields(row)]  # type: ignore[arg-type]
        self.names = tuple(names)
        self.values = attrgetter(*names[1:])
        """Returns the values of a row, the key apart."""
        self.columns = ", ".join(f"{name}.{column}" for column in names)
        values = ", ".join("?" * (len(names) - 1))
        self.insert = f"INSERT INTO {name} ({', '.join(names[1:])}) VALUES ({values})"

    def select(self, where: str) -> str:
        """Return a statement for the rows that match `where`."""
        return f"SELECT {self.columns} FROM {self.name} WHERE {where}"

    @lru_cache(maxsize=256)  # noqa: B019  tables live as long as the process
    def update(self, names: tuple[str, ...]) -> str:
        """Return a statement that sets just the columns `names` of one row: an index is touched only when named."""
        return f"UPDATE {self.name} SET {', '.join(f'{name} = ?' for name in names)} WHERE key = ?"


def _words(enum: type, prefix: str) -> dict[int, str]:
    """Return the names of an enum's values, in lower case as the Python API spells them."""
    return {number: name.removeprefix(prefix).lower() for name, number in enum.items()}  # type: ignore[attr-defined]


def _word(column: str, words: Mapping[int, str]) -> str:
    """Return an expression for the word of a column's value."""
    cases = " ".join(f"WHEN {number} THEN '{word}'" for number, word in words.items())
    return f"CASE {column} {cases} ELSE '' END"


_ROLLOUT_STATUSES = _words(v1.RolloutStatus, "ROLLOUT_STATUS_")
_ROLLOUT_MODES = {**_words(v1.RolloutMode, "ROLLOUT_MODE_"), v1.ROLLOUT_MODE_UNSPECIFIED: ""}
ROLLOUT_STATUS = _word("rollouts.status", _ROLLOUT_STATUSES)
ATTEMPT_STATUS = _word("attempts.status", _words(v1.AttemptStatus, "ATTEMPT_STATUS_"))

EXPERIMENTS = Table("experiments", ExperimentRow, {"created": (), "name": ("experiments.name",)})
ROLLOUTS = Table(
    "rollouts",
    RolloutRow,
    {
        "created": (),
        "rollout_id": ("rollouts.rollout_id",),
        "status": (ROLLOUT_STATUS,),
        "start_time": ("rollouts.start_time",),
        "end_time": (f"COALESCE(rollouts.end_time, {END_OF_TIME})",),
        "mode": (_word("rollouts.mode", _ROLLOUT_MODES),),
        "resources_id": ("COALESCE(rollouts.resources_id, '')",),
    },
    {"status": _ROLLOUT_STATUSES, "mode": _ROLLOUT_MODES},
)
ATTEMPTS = Table(
    "attempts",
    AttemptRow,
    {
        "sequence_id": ("attempts.sequence_id",),
        "attempt_id": ("attempts.attempt_id",),
        "status": (ATTEMPT_STATUS,),
        "start_time": ("attempts.start_time",),
        "end_time": (f"COALESCE(attempts.end_time, {END_OF_TIME})",),
        "worker_id": ("COALESCE(attempts.worker_id, '')",),
    },
)
SPANS = Table(
    "spans",
    SpanRow,
    {
        "sequence_id": ("spans.sequence_id", "spans.start_time"),
        "start_time": ("spans.start_time",),
        "end_time": ("spans.end_time",),
        "name": ("spans.name",),
        "trace_id": ("COALESCE(hex(spans.trace_id), '')",),
        "span_id": ("COALESCE(hex(spans.span_id), '')",),
        "parent_id": ("COALESCE(hex(spans.parent_id), '')",),
    },
)
RESOURCES = Table(
    "resources",
    ResourcesRow,
    {
        "created": (),
        "resources_id": ("resources.resources_id",),
        "create_time": ("resources.create_time",),
        "update_time": ("resources.update_time",),
        "version": ("resources.version",),
    },
)
WORKERS = Table(
    "workers",
    WorkerRow,
    {
        "created": (),
        "worker_id": ("workers.worker_id",),
        "status": (_word("workers.status", _words(v1.WorkerStatus, "WORKER_STATUS_")),),
        "last_heartbeat_time": (f"COALESCE(workers.last_heartbeat_time, {END_OF_TIME})",),
        "last_dequeue_time": (f"COALESCE(workers.last_dequeue_time, {END_OF_TIME})",),
        "last_busy_time": (f"COALESCE(workers.last_busy_time, {END_OF_TIME})",),
        "last_idle_time": (f"COALESCE(workers.last_idle_time, {END_OF_TIME})",),
    },
)
TOMBSTONES = Table("tombstones", TombstoneRow)

LIVE_ATTEMPT = "status IN (1, 2)"
"""Matches attempts that are PREPARING or RUNNING."""
