"""What a transaction tells those who wait, once it has been committed."""

from __future__ import annotations

from typing import NamedTuple

EVERYBODY = 1 << 31
"""Value of a `queue` signal that all must hear."""


class Signal(NamedTuple):
    """Something that others may wait for has been committed."""

    topic: str
    """`queue`, `rollout`, `changes`, `resources`, `experiment` (it was deleted), `deadline`, or `everything` (whatever
    one may wait for in all experiments, the queue apart)."""
    experiment: int = 0
    """Key of the experiment."""
    name: str = ""
    """The rollout's id, for `rollout`."""
    value: int = 1
    """How many rollouts came into the queue, for `queue`; the time in nanoseconds, for `deadline`."""
