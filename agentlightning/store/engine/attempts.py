"""The rules of `AttemptService`."""

from __future__ import annotations

from agentlightning.store.api import LATEST, MOST_ITEMS
from agentlightning.store.engine import messages
from agentlightning.store.engine.paging import collect, start_query
from agentlightning.store.engine.rollouts import current, existing
from agentlightning.store.engine.scope import Scope
from agentlightning.store.engine.transitions import (
    begin_attempt,
    occupy_worker,
    remove_attempt,
    report,
    set_details,
    settle_worker,
    sign_of_life,
)
from agentlightning.store.engine.validation import (
    check_attempt_id,
    check_count,
    check_id,
    check_known,
    check_payload,
    checked_time,
    lease_ns,
)
from agentlightning.store.errors import AlreadyExists, NotFound
from agentlightning.store.statuses import ENDED, LIVE
from agentlightning.store.storage.queries import Condition
from agentlightning.store.storage.rows import AttemptRow, RolloutRow
from agentlightning.store.storage.schema import ATTEMPTS
from lightning_store import v1


def find(scope: Scope, rollout: RolloutRow, attempt_id: str) -> AttemptRow:
    """Return an attempt by its id or the word `latest`, or raise."""
    if attempt_id == LATEST:
        attempt = latest_of(scope, rollout)
        if attempt is None:
            raise NotFound(
                f"No attempts found for rollout {rollout.rollout_id}",
                reason="NO_ATTEMPTS",
                metadata={"rollout_id": rollout.rollout_id},
            )
        return attempt
    return named(scope, rollout, attempt_id)


def latest_of(scope: Scope, rollout: RolloutRow) -> AttemptRow | None:
    """Return the attempt with the highest number, None when there is none."""
    return None if rollout.last_attempt is None else scope.tx.attempt_by_key(rollout.last_attempt)


def named(scope: Scope, rollout: RolloutRow, attempt_id: str) -> AttemptRow:
    """Return an attempt by its id, or raise."""
    attempt = scope.tx.attempt(rollout.key, attempt_id)
    if attempt is None:
        raise NotFound(
            f"Attempt {attempt_id} not found for rollout {rollout.rollout_id}",
            reason="ATTEMPT_NOT_FOUND",
            metadata={"rollout_id": rollout.rollout_id, "attempt_id": attempt_id},
        )
    return attempt


def start(scope: Scope, request: v1.StartAttemptRequest) -> v1.StartAttemptResponse:
    """Create a further attempt of a rollout on demand."""
    lease = lease_ns(request)
    worker_id = check_id(request.worker_id, "worker_id") if request.worker_id else None
    attempt_id = check_attempt_id(request.attempt_id) if request.attempt_id else None
    rollout = existing(scope, request.rollout_id)
    attempt = None if attempt_id is None else scope.tx.attempt(rollout.key, attempt_id)
    if attempt is None:
        attempt = begin_attempt(scope, rollout, worker_id=worker_id, lease=lease, attempt_id=attempt_id)
        occupy_worker(scope, worker_id, rollout.rollout_id, attempt)
    elif attempt.worker_id != worker_id:
        raise AlreadyExists(
            f"Attempt {attempt_id} of rollout {request.rollout_id} belongs to another worker.",
            reason="ATTEMPT_EXISTS",
            metadata={"rollout_id": request.rollout_id, "attempt_id": attempt.attempt_id},
        )
    return v1.StartAttemptResponse(
        rollout=current(scope, rollout.rollout_id),
        attempt=messages.attempt_message(attempt, rollout.rollout_id, scope.now),
    )


def update(scope: Scope, request: v1.UpdateAttemptRequest) -> v1.UpdateAttemptResponse:
    """Take a report on an attempt."""
    check_payload(request, "metadata")
    shown = checked_time(request, "last_heartbeat_time")
    if request.status:
        check_known(request.status, v1.AttemptStatus, "status")
    rollout = existing(scope, request.rollout_id)
    attempt = find(scope, rollout, request.attempt_id)
    if request.HasField("metadata"):
        set_details(scope, attempt, request.metadata)
    if request.HasField("worker_id") and attempt.status not in ENDED:
        worker_id = check_id(request.worker_id, "worker_id") if request.worker_id else None
        before = attempt.worker_id
        scope.tx.update_attempt(attempt, worker_id=worker_id)
        if before != worker_id:
            settle_worker(scope, before, v1.WORKER_STATUS_IDLE)
        if attempt.status in LIVE:
            occupy_worker(scope, worker_id, rollout.rollout_id, attempt)
    if request.status:
        failure = request.failure if request.HasField("failure") else None
        report(scope, rollout, attempt, request.status, failure, shown_time=scope.now if shown is None else shown)
    else:
        sign_of_life(scope, rollout, attempt, works=False, shown_time=shown)
    return v1.UpdateAttemptResponse(attempt=messages.attempt_message(attempt, rollout.rollout_id, scope.now))


def release(scope: Scope, request: v1.ReleaseAttemptsRequest) -> v1.ReleaseAttemptsResponse:
    """Take attempts back that have not begun."""
    check_count(request.attempts, MOST_ITEMS, "attempts")
    response = v1.ReleaseAttemptsResponse()
    for key in request.attempts:
        rollout = scope.tx.rollout(scope.experiment.key, key.rollout_id)
        attempt = None if rollout is None else scope.tx.attempt(rollout.key, key.attempt_id)
        if rollout is None or attempt is None or not _is_untouched(scope, rollout, attempt):
            continue
        remove_attempt(scope, rollout, attempt)
        response.released.append(key)
    return response


def withdraw(scope: Scope, unheard: v1.DequeueRolloutsResponse) -> v1.ReleaseAttemptsResponse:
    """Take back the claims of an answer that nobody waits for, unless the caller has repeated its claim, here or at
    another server: what has shown a sign of life may have been handed out by the repeat."""
    request = v1.ReleaseAttemptsRequest()
    for claim in unheard.claims:
        rollout_id, attempt_id = claim.attempt.rollout_id, claim.attempt.attempt_id
        rollout = scope.tx.rollout(scope.experiment.key, rollout_id)
        attempt = None if rollout is None else scope.tx.attempt(rollout.key, attempt_id)
        if attempt is not None and attempt.last_heartbeat_time is None:
            request.attempts.add(rollout_id=rollout_id, attempt_id=attempt_id)
    return release(scope, request)


def _is_untouched(scope: Scope, rollout: RolloutRow, attempt: AttemptRow) -> bool:
    """Tell whether nothing has come of an attempt; one may say that it prepares after it has sent spans."""
    if attempt.status != v1.ATTEMPT_STATUS_PREPARING:
        return False
    return not rollout.spans or attempt.key not in scope.tx.span_counts(rollout.key)


def list_attempts(scope: Scope, request: v1.ListAttemptsRequest) -> v1.ListAttemptsResponse:
    """Return a page of the attempts of a rollout."""
    rollout = scope.tx.rollout(scope.experiment.key, request.rollout_id)
    query = start_query(
        request,
        ATTEMPTS,
        "sequence_id",
        must=[Condition("rollout", "equals", 0 if rollout is None else rollout.key)],
    )
    found, page_info = collect(
        request,
        query,
        scope.tx.attempt_list(query),
        lambda row: messages.attempt_message(row, request.rollout_id, scope.now),
    )
    if request.page.with_total_size:
        page_info.total_size = scope.tx.total(ATTEMPTS, query)
    return v1.ListAttemptsResponse(attempts=found, page_info=page_info)


def latest(scope: Scope, request: v1.GetLatestAttemptRequest) -> v1.GetLatestAttemptResponse:
    """Return the attempt with the highest number."""
    rollout = existing(scope, request.rollout_id)
    row = find(scope, rollout, LATEST)
    return v1.GetLatestAttemptResponse(attempt=messages.attempt_message(row, rollout.rollout_id, scope.now))
