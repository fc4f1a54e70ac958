"""Which model call a reward is for."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

__all__ = ["RewardMatchPolicy", "assigned_rewards"]


class RewardMatchPolicy(str, Enum):
    """Among which model calls the one that earned a reward is looked for."""

    FIRST_SIBLING = "first_sibling"
    """Among the calls that have the same parent as the reward."""
    FIRST_OCCURRENCE = "first_occurrence"
    """Among all calls of the trace."""


def assigned_rewards(calls: Sequence[Any], rewards: Sequence[tuple[Any, float]]) -> list[float | None]:
    """Gives each reward to the latest call before it that has none yet; a reward before all calls goes to none.

    Args:
        calls: The position of each call. Positions need only be sortable, all of them together.
        rewards: The position of each reward, and the reward.

    Returns:
        The reward of each call, None for those that got none.
    """
    assigned: list[float | None] = [None] * len(calls)
    events: list[tuple[Any, int | None, float]] = [(position, index, 0.0) for index, position in enumerate(calls)]
    events += [(position, None, reward) for position, reward in rewards]
    waiting: list[int] = []
    for _, call, reward in sorted(events, key=lambda event: event[0]):
        if call is not None:
            waiting.append(call)
        elif waiting:
            assigned[waiting.pop()] = reward
    return assigned
