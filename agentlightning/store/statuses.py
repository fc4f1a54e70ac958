"""Statuses of the contract that mean the same to the rules."""

from __future__ import annotations

from lightning_store import v1

QUEUED = frozenset({v1.ROLLOUT_STATUS_QUEUING, v1.ROLLOUT_STATUS_REQUEUING})
"""Statuses of rollouts that wait in the queue."""

FINISHED = frozenset({v1.ROLLOUT_STATUS_SUCCEEDED, v1.ROLLOUT_STATUS_FAILED, v1.ROLLOUT_STATUS_CANCELLED})
"""Statuses of rollouts that no report moves any more."""

LIVE = frozenset({v1.ATTEMPT_STATUS_PREPARING, v1.ATTEMPT_STATUS_RUNNING})
"""Statuses of attempts that somebody works on, as far as the store knows."""

ENDED = frozenset({v1.ATTEMPT_STATUS_SUCCEEDED, v1.ATTEMPT_STATUS_FAILED, v1.ATTEMPT_STATUS_TIMEOUT})
"""Statuses of attempts that no report changes any more."""
