"""Moves of rollouts, attempts and workers, written down in the rows.

Every change of a status goes through `move_rollout`, `begin_attempt` or `report`, which keep queue, end times, change
numbers, workers and waiters in step with it.
"""

from __future__ import annotations

import secrets
from typing import Any

from agentlightning.store.engine.lifecycle import MOST_FREE_LOSSES, Limits, PastAttempt, default_failure, rollout_after
from agentlightning.store.engine.messages import timestamp
from agentlightning.store.engine.scope import Scope
from agentlightning.store.statuses import ENDED, FINISHED, LIVE, QUEUED
from agentlightning.store.storage.rows import AttemptRow, RolloutRow, WorkerRow
from lightning_store import v1

_LONGEST_MESSAGE = 4096


def move_rollout(
    scope: Scope,
    rollout: RolloutRow,
    status: v1.RolloutStatus.ValueType,
    *,
    keep_place: bool = False,
    **changes: Any,
) -> None:
    """Give a rollout a status, with all that follows from it.

    Args:
        scope: Where.
        rollout: The rollout; brought up to date.
        status: The status, which may be the one that it has.
        keep_place: True puts it back to its old place in the queue instead of the tail.
        changes: Further columns to write.
    """
    change = scope.next_change()
    changes["change_seq"] = change
    joins_queue = status in QUEUED and not rollout.queued
    if status != rollout.status:
        changes["status"] = status
        end_time = scope.now if status in FINISHED else None
        if end_time != rollout.end_time:  # or the index of ends is written for nothing
            changes["end_time"] = end_time
    if joins_queue:
        changes["queued"] = 1
        if not keep_place:
            changes["queue_place"] = change
    elif rollout.queued and status not in QUEUED:
        changes["queued"] = 0
    finishes = status in FINISHED and rollout.status not in FINISHED
    scope.tx.update_rollout(rollout, **changes)
    announce(scope, rollout, joins_queue=joins_queue, finishes=finishes)


def announce(scope: Scope, rollout: RolloutRow, *, joins_queue: bool, finishes: bool) -> None:
    """Wake those who wait for a change of this rollout."""
    scope.signal("changes")
    if joins_queue:
        scope.signal("queue")
    if finishes:
        scope.signal("rollout", rollout.rollout_id)


def begin_attempt(
    scope: Scope,
    rollout: RolloutRow,
    *,
    worker_id: str | None,
    lease: int | None,
    attempt_id: str | None = None,
    claim_id: str | None = None,
) -> AttemptRow:
    """Create the next attempt of a rollout, which becomes PREPARING. Its worker is left to the caller."""
    if attempt_id is None:
        attempt_id = f"at-{secrets.token_hex(4)}"
        while rollout.attempts and scope.tx.attempt(rollout.key, attempt_id) is not None:
            attempt_id = f"at-{secrets.token_hex(4)}"
    attempt = AttemptRow(
        key=0,
        experiment=scope.experiment.key,
        rollout=rollout.key,
        attempt_id=attempt_id,
        sequence_id=rollout.attempts + 1,
        status=v1.ATTEMPT_STATUS_PREPARING,
        start_time=scope.now,
        end_time=None,
        worker_id=worker_id,
        claim_id=claim_id,
        last_heartbeat_time=None,
        beat=scope.now,
        lease=lease,
        expires_at=None,
        charged=1,
        evicted_spans=0,
        prior_status=rollout.status,
        prior_end_time=rollout.end_time,
        details=b"",
    )
    attempt.expires_at = _expiry(rollout, attempt, attempt.beat)
    scope.tx.add_attempt(attempt)
    _announce_expiry(scope, attempt)
    move_rollout(
        scope,
        rollout,
        v1.ROLLOUT_STATUS_PREPARING,
        last_attempt=attempt.key,
        attempts=attempt.sequence_id,
    )
    return attempt


def remove_attempt(scope: Scope, rollout: RolloutRow, attempt: AttemptRow) -> None:
    """Undo a PREPARING attempt: its rollout is again what it was before, unless it has been moved on since."""
    scope.tx.delete_attempt(attempt)
    if attempt.key == rollout.last_attempt:
        before = scope.tx.last_attempt(rollout.key)
        is_untouched = rollout.status == v1.ROLLOUT_STATUS_PREPARING
        status = _prior_status(scope, rollout, attempt, before) if is_untouched else rollout.status
        move_rollout(
            scope,
            rollout,
            status,  # type: ignore[arg-type]
            keep_place=True,
            last_attempt=None if before is None else before.key,
            attempts=0 if before is None else before.sequence_id,
        )
        if is_untouched and attempt.prior_end_time is not None:
            scope.tx.update_rollout(rollout, end_time=attempt.prior_end_time)
    settle_worker(scope, attempt.worker_id, v1.WORKER_STATUS_IDLE)


def _prior_status(scope: Scope, rollout: RolloutRow, attempt: AttemptRow, before: AttemptRow | None) -> int:
    """Return what a rollout was before an attempt, or would be by now had that attempt never been.

    Args:
        scope: Where.
        rollout: The rollout.
        attempt: Its attempt that has been removed.
        before: The attempt before that, if there is one.
    """
    if attempt.prior_status in QUEUED or attempt.prior_status in FINISHED:
        return attempt.prior_status
    if before is None:  # it was handed back too
        return v1.ROLLOUT_STATUS_QUEUING
    config = v1.RolloutConfig.FromString(rollout.config)
    past = [_past(row) for row in scope.tx.attempts(rollout.key)]
    failure = v1.Attempt.FromString(before.details).failure
    return rollout_after(before.status, failure, config, past)  # type: ignore[arg-type]


def sign_of_life(
    scope: Scope, rollout: RolloutRow, attempt: AttemptRow, *, works: bool, shown_time: int | None = None
) -> None:
    """Take note that somebody works on an attempt; one that has ended is left alone.

    Args:
        scope: Where.
        rollout: The rollout of the attempt.
        attempt: The attempt.
        works: True when the sign shows work on the agent, such as a span: PREPARING becomes RUNNING.
        shown_time: Time to show as that of the sign, in nanoseconds; None for now.
    """
    if attempt.status in ENDED:
        return
    changes: dict[str, Any] = {
        "beat": scope.now,
        "last_heartbeat_time": scope.now if shown_time is None else shown_time,
    }
    is_latest = attempt.key == rollout.last_attempt
    was = attempt.status
    if was == v1.ATTEMPT_STATUS_UNRESPONSIVE or (works and was == v1.ATTEMPT_STATUS_PREPARING):
        changes["status"] = v1.ATTEMPT_STATUS_RUNNING
    if was == v1.ATTEMPT_STATUS_UNRESPONSIVE:
        changes["charged"] = 1
        changes["details"] = _with_details(attempt, failure=None)
    _write_attempt(scope, rollout, attempt, changes)
    if not is_latest or rollout.status in FINISHED:
        return
    if attempt.status != was or (works and rollout.queued):
        move_rollout(scope, rollout, v1.ROLLOUT_STATUS_RUNNING)
    if attempt.status != was:
        occupy_worker(scope, attempt.worker_id, rollout.rollout_id, attempt)


def report(
    scope: Scope,
    rollout: RolloutRow,
    attempt: AttemptRow,
    status: v1.AttemptStatus.ValueType,
    failure: v1.AttemptFailure | None,
    *,
    shown_time: int | None = None,
    charged: bool = True,
    keep_place: bool = False,
) -> None:
    """Give an attempt a status, and its rollout what follows if it is the latest and the rollout is not finished.

    Args:
        scope: Where.
        rollout: The rollout of the attempt.
        attempt: The attempt.
        status: Its status, as a runner reports it or the watchdog finds it.
        failure: Why it ended badly.
        shown_time: Time to show as that of the last sign of life, in nanoseconds; None keeps what is shown.
        charged: False when the attempt costs its rollout nothing.
        keep_place: True puts a requeued rollout back to its old place in the queue.
    """
    if attempt.status in ENDED:
        if status != attempt.status:
            late = v1.LateReport(status=status, failure=_trimmed(failure), report_time=timestamp(scope.now))
            scope.tx.update_attempt(attempt, details=_with_details(attempt, late_report=late))
        return
    well = status in LIVE or status == v1.ATTEMPT_STATUS_SUCCEEDED
    failure = None if well else failure or default_failure(status)
    changes: dict[str, Any] = {"status": status, "charged": int(charged)}
    if status in ENDED:
        changes["end_time"] = scope.now
    if status in LIVE:
        changes["beat"] = scope.now
    if shown_time is not None:
        changes["last_heartbeat_time"] = shown_time
    details = _with_details(attempt, failure=_trimmed(failure))
    if details != attempt.details:
        changes["details"] = details
    _write_attempt(scope, rollout, attempt, changes)
    if attempt.key == rollout.last_attempt and rollout.status not in FINISHED:
        config = v1.RolloutConfig.FromString(rollout.config)
        past = [] if well else [_past(row) for row in scope.tx.attempts(rollout.key)]
        follows = v1.ROLLOUT_STATUS_REQUEUING if not charged else rollout_after(status, failure, config, past)
        if follows != rollout.status:
            move_rollout(scope, rollout, follows, keep_place=keep_place)
    if status in LIVE:
        occupy_worker(scope, attempt.worker_id, rollout.rollout_id, attempt)
    else:
        known = status in (v1.ATTEMPT_STATUS_SUCCEEDED, v1.ATTEMPT_STATUS_FAILED)
        settle_worker(scope, attempt.worker_id, v1.WORKER_STATUS_IDLE if known else v1.WORKER_STATUS_UNKNOWN)


def watch(scope: Scope, rollout: RolloutRow, attempt: AttemptRow) -> None:
    """End an attempt that has exceeded one of its limits."""
    limits = _limits(rollout, attempt)
    status = limits.exceeded(scope.now)
    if status is None:
        _write_attempt(scope, rollout, attempt, {})
        return
    lost_lease = attempt.lease is not None and scope.now - attempt.beat > attempt.lease
    free = (
        status == v1.ATTEMPT_STATUS_UNRESPONSIVE
        and attempt.status == v1.ATTEMPT_STATUS_PREPARING
        and lost_lease
        and sum(not row.charged for row in scope.tx.attempts(rollout.key)) < MOST_FREE_LOSSES
    )
    report(scope, rollout, attempt, status, None, charged=not free, keep_place=free)


def occupy_worker(
    scope: Scope, worker: WorkerRow | str | None, rollout_id: str, attempt: AttemptRow, **changes: Any
) -> None:
    """Take note that a worker, or the one of an id, has an attempt, and of further changes; None is no worker."""
    if worker is None:
        return
    if isinstance(worker, str):
        worker = ensure_worker(scope, worker)
    changes |= {"current_rollout_id": rollout_id, "current_attempt_id": attempt.attempt_id}
    if worker.status != v1.WORKER_STATUS_BUSY or worker.current_attempt_id != attempt.attempt_id:
        changes["last_busy_time"] = scope.now
    if worker.status != v1.WORKER_STATUS_BUSY:
        changes["status"] = v1.WORKER_STATUS_BUSY
    scope.tx.update_worker(worker, **changes)


def settle_worker(scope: Scope, worker_id: str | None, status: v1.WorkerStatus.ValueType) -> None:
    """Give a worker that lost an attempt its `status`, unless it has others."""
    worker = None if worker_id is None else scope.tx.worker(scope.experiment.key, worker_id)
    if worker is None:
        return
    other = scope.tx.live_attempt_of(scope.experiment.key, worker.worker_id)
    if other is not None:
        occupy_worker(scope, worker, scope.tx.rollout_id_of(other), other)
        return
    changes: dict[str, Any] = {"status": status, "current_rollout_id": None, "current_attempt_id": None}
    if status == v1.WORKER_STATUS_IDLE and worker.status != v1.WORKER_STATUS_IDLE:
        changes["last_idle_time"] = scope.now
    scope.tx.update_worker(worker, **changes)


def ensure_worker(scope: Scope, worker_id: str) -> WorkerRow:
    """Return a worker, a new one if it has never been seen."""
    worker = scope.tx.worker(scope.experiment.key, worker_id)
    if worker is None:
        worker = WorkerRow(
            0, scope.experiment.key, worker_id, v1.WORKER_STATUS_UNKNOWN, None, None, None, None, None, None, 0, None
        )
        scope.tx.add_worker(worker)
    return worker


def restart_watch(scope: Scope, rollout: RolloutRow, attempt: AttemptRow) -> None:
    """Count the silence of an attempt from now on: while the server was away, nobody could show a sign of life."""
    _write_attempt(scope, rollout, attempt, {"beat": scope.now})


def refresh_limits(scope: Scope, rollout: RolloutRow) -> None:
    """Apply a changed config to the live attempts of a rollout."""
    for attempt in scope.tx.attempts(rollout.key):
        if attempt.status in LIVE:
            _write_attempt(scope, rollout, attempt, {})


def set_details(scope: Scope, attempt: AttemptRow, metadata: v1.Payload) -> None:
    """Replace the metadata of an attempt."""
    scope.tx.update_attempt(attempt, details=_with_details(attempt, metadata=metadata))


def _write_attempt(scope: Scope, rollout: RolloutRow, attempt: AttemptRow, changes: dict[str, Any]) -> None:
    """Write columns of an attempt and, with them, when the watchdog must look at it."""
    status = changes.get("status", attempt.status)
    expires_at = _expiry(rollout, attempt, changes.get("beat", attempt.beat)) if status in LIVE else None
    if expires_at != attempt.expires_at:
        changes["expires_at"] = expires_at
    if changes:
        scope.tx.update_attempt(attempt, **changes)
    if "expires_at" in changes:
        _announce_expiry(scope, attempt)


def _announce_expiry(scope: Scope, attempt: AttemptRow) -> None:
    if attempt.expires_at is not None:
        scope.signal("deadline", value=attempt.expires_at)


def _expiry(rollout: RolloutRow, attempt: AttemptRow, beat: int) -> int | None:
    """Return when the watchdog must look at a live attempt whose last sign of life was at `beat`."""
    if attempt.lease is None and not rollout.config:  # most have no limits, and nothing need be parsed
        return None
    return _limits(rollout, attempt)._replace(beat=beat).expiry()


def _limits(rollout: RolloutRow, attempt: AttemptRow) -> Limits:
    return Limits(attempt.start_time, attempt.beat, attempt.lease, v1.RolloutConfig.FromString(rollout.config))


def _past(row: AttemptRow) -> PastAttempt:
    return PastAttempt(v1.Attempt.FromString(row.details).failure.kind, bool(row.charged))


def _with_details(attempt: AttemptRow, **fields: Any) -> bytes:
    """Return the details of an attempt with some fields set, or cleared where None."""
    details = v1.Attempt.FromString(attempt.details)
    for name, value in fields.items():
        details.ClearField(name)  # type: ignore[arg-type]
        if value is not None:
            getattr(details, name).CopyFrom(value)
    return details.SerializeToString()


def _trimmed(failure: v1.AttemptFailure | None) -> v1.AttemptFailure | None:
    if failure is None:
        return None
    message = failure.message.encode()
    if len(message) <= _LONGEST_MESSAGE:
        return failure
    short = v1.AttemptFailure()
    short.CopyFrom(failure)
    short.message = message[:_LONGEST_MESSAGE].decode(errors="ignore")
    return short
