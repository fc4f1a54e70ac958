"""Deletes finished rollouts that are too old or too many."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from agentlightning.store.engine.messages import SECOND
from agentlightning.store.engine.rollouts import remove
from agentlightning.store.engine.scope import Scope
from agentlightning.store.statuses import FINISHED
from agentlightning.store.storage.rows import END_OF_TIME

_MOST_AT_ONCE = 100
_MOST_SPANS_AT_ONCE = 10_000
_PAUSE = SECOND


@dataclass(frozen=True)
class Retention:
    """How long finished rollouts are kept, in each experiment; what exceeds one of the limits is deleted."""

    keep_finished: int | None = None
    """Nanoseconds from a rollout's end; None keeps it for ever."""
    keep_finished_count: int | None = None
    """Number of rollouts, those that ended last; None keeps any number."""

    @property
    def pause(self) -> int:
        """Nanoseconds from the end of a rollout until one must be looked for, long enough for many to share a look."""
        age = self.keep_finished
        return _PAUSE if age is None or self.keep_finished_count is not None else max(age, _PAUSE)


EVERY_EXPERIMENT = 0
"""Stands for the keys of all experiments, as in signals."""


class Due:
    """When each experiment must be pruned next; for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._moments = {EVERY_EXPERIMENT: 0}

    def expect(self, experiment: int, moment: int) -> None:
        """Have an experiment pruned at a moment, or before."""
        with self._lock:
            self._moments[experiment] = min(moment, self._moments.get(experiment, moment))

    def take(self, now: int) -> set[int]:
        """Return those whose moment has come, and forget it."""
        with self._lock:
            due = {experiment for experiment, moment in self._moments.items() if moment <= now}
            for experiment in due:
                del self._moments[experiment]
            return due

    def first(self) -> int | None:
        """Return the first moment that is to come."""
        with self._lock:
            return min(self._moments.values(), default=None)


def prune(scope: Scope, retention: Retention) -> int | None:
    """Delete finished rollouts that exceed a limit, those that ended first, as many as one transaction should.

    Returns:
        When to go on; None when a further rollout must end before.
    """
    surplus = _surplus(scope, retention)
    age = retention.keep_finished
    before = END_OF_TIME if surplus else 0 if age is None else scope.now - age
    found = scope.tx.finished_rollouts(scope.experiment.key, before, min(surplus or _MOST_AT_ONCE, _MOST_AT_ONCE))
    spans = 0
    for row in found:
        remove(scope, row)
        spans += row.spans
        if spans > _MOST_SPANS_AT_ONCE:
            break
    if found:
        return scope.now
    first_end = None if age is None else scope.tx.first_end(scope.experiment.key)
    moments = [scope.now] if surplus else []  # others are changing these just now
    if age is not None and first_end is not None:
        moments.append(first_end + age + 1)
    return max(min(moments), scope.now + _PAUSE) if moments else None


def _surplus(scope: Scope, retention: Retention) -> int:
    """Return by how many the finished rollouts of an experiment are too many."""
    if retention.keep_finished_count is None:
        return 0
    tallies = scope.tx.tallies(scope.experiment.key)
    return max(0, sum(tallies.get(f"rollouts.{status}", 0) for status in FINISHED) - retention.keep_finished_count)
