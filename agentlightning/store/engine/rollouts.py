"""The rules of `RolloutService`, its streams apart."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from agentlightning.store.api import MOST_IDS, MOST_ITEMS
from agentlightning.store.engine import messages, resources
from agentlightning.store.engine.paging import MOST_BYTES, collect, start_query
from agentlightning.store.engine.scope import Scope
from agentlightning.store.engine.transitions import (
    announce,
    begin_attempt,
    ensure_worker,
    move_rollout,
    occupy_worker,
    refresh_limits,
    settle_worker,
    sign_of_life,
)
from agentlightning.store.engine.validation import (
    check_attempt_id,
    check_config,
    check_count,
    check_id,
    check_known,
    check_payload,
    check_understood,
    lease_ns,
)
from agentlightning.store.errors import AlreadyExists, InvalidArgument, NotFound
from agentlightning.store.storage.queries import Condition, Query
from agentlightning.store.storage.rows import RolloutRow, TombstoneRow
from agentlightning.store.storage.schema import ROLLOUTS
from agentlightning.store.storage.tx import RolloutView
from lightning_store import v1

TOMBSTONE_LIFE = 24 * 3600 * messages.SECOND
"""How long a deletion is remembered, in nanoseconds."""

_NULL = v1.Payload(content_type="application/json", data=b"null")


def rollout_not_found(rollout_id: str) -> NotFound:
    """Return the error for a rollout that does not exist."""
    return NotFound(f"Rollout {rollout_id} not found", reason="ROLLOUT_NOT_FOUND", metadata={"rollout_id": rollout_id})


def existing(scope: Scope, rollout_id: str) -> RolloutRow:
    """Return a rollout, or raise."""
    row = scope.tx.rollout(scope.experiment.key, rollout_id)
    if row is None:
        raise rollout_not_found(rollout_id)
    return row


def current(scope: Scope, rollout_id: str) -> v1.Rollout:
    """Return a rollout as the contract shows it, or raise."""
    view = scope.tx.rollout_view(scope.experiment.key, rollout_id)
    if view is None:
        raise rollout_not_found(rollout_id)
    return messages.rollout(view, scope.now)


def start(scope: Scope, request: v1.StartRolloutRequest) -> v1.StartRolloutResponse:
    """Create a rollout and its first attempt."""
    lease = lease_ns(request)
    attempt_id = check_attempt_id(request.attempt_id) if request.attempt_id else None
    worker_id = check_id(request.worker_id, "worker_id") if request.worker_id else None
    # Not the digest of the rollout alone, which one that was enqueued has too.
    digest = messages.fingerprint(v1.StartRolloutRequest(rollout=request.rollout, attempt_id=request.attempt_id))
    view, is_new = _create(scope, request.rollout, digest, queued=False)
    if is_new:
        attempt = begin_attempt(scope, view.row, worker_id=worker_id, lease=lease, attempt_id=attempt_id)
        occupy_worker(scope, worker_id, view.row.rollout_id, attempt)
    else:
        attempts = scope.tx.attempts(view.row.key)
        if not attempts:  # it was handed back since
            raise _taken(view.row.rollout_id)
        attempt = attempts[0]
    return v1.StartRolloutResponse(
        rollout=current(scope, view.row.rollout_id),
        attempt=messages.attempt_message(attempt, view.row.rollout_id, scope.now),
    )


def enqueue(scope: Scope, request: v1.EnqueueRolloutsRequest) -> v1.EnqueueRolloutsResponse:
    """Create rollouts in the queue."""
    check_count(request.rollouts, MOST_ITEMS, "rollouts")
    response = v1.EnqueueRolloutsResponse()
    for new in request.rollouts:
        view, _ = _create(scope, new, messages.fingerprint(new), queued=True)
        response.rollouts.append(messages.rollout(view, scope.now))
    return response


def _create(scope: Scope, new: v1.NewRollout, digest: bytes, *, queued: bool) -> tuple[RolloutView, bool]:
    """Return the rollout that a request describes, and whether it is new.

    Args:
        scope: Where.
        new: What the request says of it.
        digest: Of the request: the same id with another one is taken.
        queued: Whether a new one goes to the queue.
    """
    rollout_id = check_id(new.rollout_id, "rollout_id") if new.rollout_id else f"ro-{secrets.token_hex(6)}"
    check_payload(new, "input")
    check_payload(new, "metadata")
    check_config(new.config)
    if new.resources_id:
        check_id(new.resources_id, "resources_id")
    check_known(new.mode, v1.RolloutMode, "mode", optional=True)
    exists, was_deleted = scope.tx.id_in_use(scope.experiment.key, rollout_id)
    view = scope.tx.rollout_view(scope.experiment.key, rollout_id) if exists else None
    if view is not None:
        if view.row.fingerprint != digest:
            raise _taken(rollout_id)
        return view, False
    if was_deleted:
        raise AlreadyExists(
            f"Rollout {rollout_id} existed and was deleted; choose another id.",
            reason="ROLLOUT_EXISTS",
            metadata={"rollout_id": rollout_id},
        )
    change = scope.next_change()
    row = RolloutRow(
        key=0,
        experiment=scope.experiment.key,
        rollout_id=rollout_id,
        status=v1.ROLLOUT_STATUS_QUEUING,
        mode=new.mode,
        resources_id=new.resources_id or resources.latest_id(scope),
        start_time=scope.now,
        end_time=None,
        queued=int(queued),
        queue_place=change,
        change_seq=change,
        last_attempt=None,
        attempts=0,
        span_seq=0,
        spans=0,
        span_bytes=0,
        config=new.config.SerializeToString(),
        fingerprint=digest,
    )
    body = v1.NewRollout(
        input=new.input if new.HasField("input") else _NULL,
        metadata=new.metadata if new.HasField("metadata") else None,
    )
    data = body.SerializeToString()
    scope.tx.add_rollout(row, data)
    announce(scope, row, joins_queue=queued, finishes=False)
    return RolloutView(row, data, None), True


def _taken(rollout_id: str) -> AlreadyExists:
    return AlreadyExists(
        f"Rollout {rollout_id} exists and was created by another request.",
        reason="ROLLOUT_EXISTS",
        metadata={"rollout_id": rollout_id},
    )


def dequeue(
    scope: Scope, request: v1.DequeueRolloutsRequest, is_present: Callable[[], bool]
) -> v1.DequeueRolloutsResponse:
    """Claim rollouts from the head of the queue for a caller who is still there."""
    lease = lease_ns(request)
    if not is_present():
        return v1.DequeueRolloutsResponse()
    limit = min(request.limit, MOST_ITEMS)
    scope.tx.expect_claim(scope.experiment.key, request.claim_id, request.worker_id, limit)
    claims = _earlier_claims(scope, request.claim_id) if request.claim_id else []
    if claims:
        return _claimed(scope, request, claims)
    worker_id = check_id(request.worker_id, "worker_id") if request.worker_id else None
    worker = None if worker_id is None else ensure_worker(scope, worker_id)
    if worker is not None and worker.draining:
        scope.tx.update_worker(worker, last_dequeue_time=scope.now)
        return v1.DequeueRolloutsResponse(draining=True)
    for row, body in _head_of_queue(scope, limit):
        attempt = begin_attempt(scope, row, worker_id=worker_id, lease=lease, claim_id=request.claim_id or None)
        claims.append(
            v1.Claim(
                rollout=messages.rollout(RolloutView(row, body, attempt), scope.now),
                attempt=messages.attempt_message(attempt, row.rollout_id, scope.now),
            )
        )
    if claims:
        occupy_worker(scope, worker, row.rollout_id, attempt, last_dequeue_time=scope.now)
    elif worker is not None:
        scope.tx.update_worker(worker, last_dequeue_time=scope.now)
        if limit > 0 and worker.status != v1.WORKER_STATUS_BUSY:
            settle_worker(scope, worker_id, v1.WORKER_STATUS_IDLE)
    return _claimed(scope, request, claims)


def _head_of_queue(scope: Scope, limit: int) -> list[tuple[RolloutRow, bytes]]:
    """Return the first rollouts of the queue and their bodies, as many as an answer takes."""
    taken: list[tuple[RolloutRow, bytes]] = []
    size = 0
    for row, body in scope.tx.head_of_queue(scope.experiment.key, limit) if limit > 0 else ():
        taken.append((row, body))
        size += len(body)
        if size > MOST_BYTES:
            break
    return taken


def _earlier_claims(scope: Scope, claim_id: str) -> list[v1.Claim]:
    check_id(claim_id, "claim_id")
    claims = []
    for attempt in scope.tx.claimed_attempts(scope.experiment.key, claim_id):
        row = scope.tx.rollout_by_key(attempt.rollout)
        if attempt.status == v1.ATTEMPT_STATUS_PREPARING:
            sign_of_life(scope, row, attempt, works=False)
        claims.append(
            v1.Claim(
                rollout=current(scope, row.rollout_id),
                attempt=messages.attempt_message(attempt, row.rollout_id, scope.now),
            )
        )
    return claims


def _claimed(scope: Scope, request: v1.DequeueRolloutsRequest, claims: list[v1.Claim]) -> v1.DequeueRolloutsResponse:
    response = v1.DequeueRolloutsResponse(claims=claims)
    if request.with_resources:
        known = {(version.resources_id, version.version) for version in request.known_resources}
        named = {claim.rollout.resources_id if claim.rollout.HasField("resources_id") else None for claim in claims}
        for resources_id in sorted(named, key=lambda name: name or ""):
            row = resources.find(scope, resources_id)
            if row is not None and (row.resources_id, row.version) not in known:
                known.add((row.resources_id, row.version))
                response.resources.append(messages.resources(row))
    return response


def get(scope: Scope, request: v1.GetRolloutRequest) -> v1.GetRolloutResponse:
    """Return one rollout."""
    return v1.GetRolloutResponse(rollout=current(scope, request.rollout_id))


def list_rollouts(scope: Scope, request: v1.ListRolloutsRequest) -> v1.ListRolloutsResponse:
    """Return a page of rollouts."""
    conditions = _conditions(request.filter)
    query = start_query(
        request,
        ROLLOUTS,
        "created",
        must=[Condition("experiment", "equals", scope.experiment.key)],
        conditions=conditions,
        logic=request.filter.logic,
    )
    rows = scope.tx.rollout_list(query)
    found, page_info = collect(request, query, rows, lambda view: messages.rollout(view, scope.now))
    if request.page.with_total_size:
        page_info.total_size = _total(scope, conditions, query)
    return v1.ListRolloutsResponse(rollouts=found, page_info=page_info)


def _conditions(wanted: v1.RolloutFilter) -> list[Condition]:
    conditions = []
    if wanted.HasField("status_in"):
        conditions.append(Condition("status", "in", wanted.status_in.values))
    if wanted.HasField("rollout_id_in"):
        check_count(wanted.rollout_id_in.values, MOST_IDS, "filter.rollout_id_in")
        conditions.append(Condition("rollout_id", "in", wanted.rollout_id_in.values))
    if wanted.HasField("rollout_id_contains"):
        conditions.append(Condition("rollout_id", "contains", wanted.rollout_id_contains))
    if wanted.HasField("mode_in"):
        conditions.append(Condition("mode", "in", wanted.mode_in.values))
    return conditions


def _total(scope: Scope, conditions: list[Condition], query: Query) -> int:
    """Return how many rollouts match; from the counters where these tell."""
    if all(condition.column == "status" for condition in conditions):
        tallies = scope.tx.tallies(scope.experiment.key)
        statuses = conditions[0].value if conditions else v1.RolloutStatus.values()
        return sum(tallies.get(f"rollouts.{status}", 0) for status in set(statuses))
    return scope.tx.total(ROLLOUTS, query)


def update(scope: Scope, request: v1.UpdateRolloutRequest) -> v1.UpdateRolloutResponse:
    """Change a rollout by the word of the algorithm or an operator."""
    check_payload(request, "input")
    check_payload(request, "metadata")
    row = existing(scope, request.rollout_id)
    if request.status:
        check_known(request.status, v1.RolloutStatus, "status")
    changes: dict[str, object] = {}
    if request.HasField("mode"):
        check_known(request.mode, v1.RolloutMode, "mode", optional=True)
        changes["mode"] = request.mode
    if request.HasField("resources_id"):
        changes["resources_id"] = check_id(request.resources_id, "resources_id") if request.resources_id else None
    if request.HasField("config"):
        check_config(request.config)
        changes["config"] = request.config.SerializeToString()
    if request.HasField("input") or request.HasField("metadata"):
        body = v1.NewRollout.FromString(scope.tx.body(row))
        for field in ("input", "metadata"):
            if request.HasField(field):
                getattr(body, field).CopyFrom(getattr(request, field))
        scope.tx.set_body(row, body.SerializeToString())
    status = request.status or row.status
    move_rollout(scope, row, status, **changes)  # type: ignore[arg-type]
    if request.HasField("config"):
        refresh_limits(scope, row)
    return v1.UpdateRolloutResponse(rollout=current(scope, row.rollout_id))


def delete(scope: Scope, request: v1.DeleteRolloutsRequest) -> v1.DeleteRolloutsResponse:
    """Delete rollouts with all that belongs to them."""
    check_understood(request)
    if not request.HasField("rollout_id_in") and not request.HasField("status_in"):
        raise InvalidArgument(
            "DeleteRollouts needs rollout_id_in or status_in; it never deletes everything by default.",
            reason="SELECTOR_REQUIRED",
        )
    limit = min(request.limit, MOST_ITEMS) if request.limit > 0 else MOST_ITEMS
    conditions = _conditions(
        v1.RolloutFilter(
            status_in=request.status_in if request.HasField("status_in") else None,
            rollout_id_in=request.rollout_id_in if request.HasField("rollout_id_in") else None,
        )
    )
    query = Query(
        must=[Condition("experiment", "equals", scope.experiment.key)], conditions=conditions, limit=limit + 1
    )
    rows = scope.tx.rollouts_to_delete(query)
    response = v1.DeleteRolloutsResponse(remaining=len(rows) > limit)
    for row in rows[:limit]:
        remove(scope, row)
        response.deleted_rollout_ids.append(row.rollout_id)
    return response


def remove(scope: Scope, row: RolloutRow) -> None:
    """Delete a rollout with all that belongs to it; watchers hear of it."""
    workers = {attempt.worker_id for attempt in scope.tx.attempts(row.key)} if row.attempts else set()
    change = scope.next_change()  # before the row goes, which may hold the number of the last change
    scope.tx.delete_rollout(row)
    scope.tx.add_tombstone(TombstoneRow(0, scope.experiment.key, row.rollout_id, change, scope.now))
    announce(scope, row, joins_queue=False, finishes=True)
    scope.signal("deadline", value=scope.now + TOMBSTONE_LIFE)
    for worker_id in workers:
        worker = None if worker_id is None else scope.tx.worker(scope.experiment.key, worker_id)
        if worker is not None and worker.current_rollout_id == row.rollout_id:
            settle_worker(scope, worker_id, v1.WORKER_STATUS_IDLE)
