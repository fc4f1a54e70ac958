"""How rollouts and attempts move: pure functions over their states."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from agentlightning.store.engine.messages import duration_ns
from agentlightning.store.storage.rows import END_OF_TIME
from lightning_store import v1

MOST_FREE_LOSSES = 10
"""Lost leases on PREPARING attempts that cost a rollout nothing; further ones count as attempts, so that a rollout that
kills its runners comes to an end."""

_ROLLOUT_OF = {
    v1.ATTEMPT_STATUS_PREPARING: v1.ROLLOUT_STATUS_PREPARING,
    v1.ATTEMPT_STATUS_RUNNING: v1.ROLLOUT_STATUS_RUNNING,
    v1.ATTEMPT_STATUS_SUCCEEDED: v1.ROLLOUT_STATUS_SUCCEEDED,
}


class PastAttempt(NamedTuple):
    """What the decision on a retry takes from an attempt of the rollout."""

    failure_kind: v1.AttemptFailureKind.ValueType
    charged: bool


def rollout_after(
    status: v1.AttemptStatus.ValueType,
    failure: v1.AttemptFailure | None,
    config: v1.RolloutConfig,
    attempts: Iterable[PastAttempt],
) -> v1.RolloutStatus.ValueType:
    """Return the status that an unfinished rollout takes from its latest attempt.

    Args:
        status: New status of the latest attempt.
        failure: Why it ended badly, if it did.
        config: The rollout's.
        attempts: All attempts of the rollout so far, the latest included.
    """
    if status in _ROLLOUT_OF:
        return _ROLLOUT_OF[status]
    granted = _retry_granted(status, failure, config, attempts)
    return v1.ROLLOUT_STATUS_REQUEUING if granted else v1.ROLLOUT_STATUS_FAILED


def _retry_granted(
    status: v1.AttemptStatus.ValueType,
    failure: v1.AttemptFailure | None,
    config: v1.RolloutConfig,
    attempts: Iterable[PastAttempt],
) -> bool:
    kind = v1.ATTEMPT_FAILURE_KIND_UNSPECIFIED if failure is None else failure.kind
    ruled_out = failure is not None and failure.HasField("retryable") and not failure.retryable
    if ruled_out:
        return False
    budgets = {budget.kind: budget.max_retries for budget in config.retry_budgets}
    if kind in budgets:
        return sum(past.failure_kind == kind for past in attempts) <= budgets[kind]
    charged = sum(past.charged and past.failure_kind not in budgets for past in attempts)
    return status in config.retry_on and charged < max(1, config.max_attempts)


def default_failure(status: v1.AttemptStatus.ValueType) -> v1.AttemptFailure | None:
    """Return the failure that goes with a status that the server itself gives."""
    if status == v1.ATTEMPT_STATUS_TIMEOUT:
        return v1.AttemptFailure(
            kind=v1.ATTEMPT_FAILURE_KIND_TIMEOUT, message="The attempt ran for longer than its config allows."
        )
    if status == v1.ATTEMPT_STATUS_UNRESPONSIVE:
        return v1.AttemptFailure(
            kind=v1.ATTEMPT_FAILURE_KIND_LEASE_LOST, message="The runner has shown no sign of life for too long."
        )
    return None


class Limits(NamedTuple):
    """The limits of a live attempt; nanoseconds, None for none."""

    start_time: int
    beat: int
    lease: int | None
    config: v1.RolloutConfig

    def expiry(self) -> int | None:
        """Return the first moment at which one of the limits is exceeded; None when there is none."""
        moments = [start + length + 1 for start, length in self._spans() if length is not None]
        return min((moment for moment in moments if moment <= END_OF_TIME), default=None)

    def exceeded(self, now: int) -> v1.AttemptStatus.ValueType | None:
        """Return the status that the attempt must take, None while it is within its limits."""
        timeout = duration_ns(self.config, "timeout")
        if timeout is not None and now - self.start_time > timeout:
            return v1.ATTEMPT_STATUS_TIMEOUT
        if any(length is not None and now - start > length for start, length in self._spans()):
            return v1.ATTEMPT_STATUS_UNRESPONSIVE
        return None

    def _spans(self) -> list[tuple[int, int | None]]:
        return [
            (self.start_time, duration_ns(self.config, "timeout")),
            (self.beat, duration_ns(self.config, "unresponsive_timeout")),
            (self.beat, self.lease),
        ]
