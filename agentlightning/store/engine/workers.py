"""The rules of `WorkerService`."""

from __future__ import annotations

from collections.abc import Iterator

from agentlightning.store.api import MOST_ITEMS
from agentlightning.store.engine import messages
from agentlightning.store.engine.paging import collect, start_query
from agentlightning.store.engine.scope import Scope
from agentlightning.store.engine.transitions import ensure_worker, sign_of_life
from agentlightning.store.engine.validation import check_count, check_id, check_known, check_payload
from agentlightning.store.errors import NotFound
from agentlightning.store.statuses import ENDED, FINISHED
from agentlightning.store.storage.queries import Condition
from agentlightning.store.storage.schema import WORKERS
from agentlightning.store.storage.signals import EVERYBODY
from lightning_store import v1


def update(scope: Scope, request: v1.UpdateWorkerRequest) -> v1.UpdateWorkerResponse:
    """Take a heartbeat, and tell the worker what to do."""
    worker_id = check_id(request.worker_id, "worker_id")
    check_payload(request, "heartbeat_stats")
    check_count(request.held_attempts, MOST_ITEMS, "held_attempts")
    worker = ensure_worker(scope, worker_id)
    changes: dict[str, object] = {"last_heartbeat_time": scope.now}
    if request.HasField("heartbeat_stats"):
        changes["stats"] = request.heartbeat_stats.SerializeToString()
    if request.HasField("draining"):
        changes["draining"] = int(request.draining)
        scope.signal("queue", value=EVERYBODY)  # its held dequeue must hear of it
    scope.tx.update_worker(worker, **changes)
    commands = list(_held(scope, request))
    worker = ensure_worker(scope, worker_id)
    if worker.draining:
        commands.append(v1.WorkerCommand(drain=v1.Drain(reason="An operator asked the worker to drain.")))
    return v1.UpdateWorkerResponse(worker=messages.worker(worker), commands=commands)


def _held(scope: Scope, request: v1.UpdateWorkerRequest) -> Iterator[v1.WorkerCommand]:
    """Renew the attempts that a worker holds; yield the order to stop for each that it should not hold."""
    for key in request.held_attempts:
        reason = _renew(scope, key)
        if reason is not None:
            yield v1.WorkerCommand(
                cancel_attempt=v1.CancelAttempt(rollout_id=key.rollout_id, attempt_id=key.attempt_id, reason=reason)
            )


def _renew(scope: Scope, key: v1.AttemptKey) -> str | None:
    """Take a heartbeat as a sign of life of an attempt, or return why it should stop."""
    rollout = scope.tx.rollout(scope.experiment.key, key.rollout_id)
    attempt = None if rollout is None else scope.tx.attempt(rollout.key, key.attempt_id)
    if rollout is None or attempt is None:
        return "The rollout or the attempt does not exist any more."
    if attempt.status in ENDED:
        status = v1.AttemptStatus.Name(attempt.status).removeprefix("ATTEMPT_STATUS_")  # type: ignore[arg-type]
        return f"The attempt has ended: {status}."
    if attempt.key != rollout.last_attempt:
        return "Another attempt has taken its place."
    if rollout.status in FINISHED:
        status = v1.RolloutStatus.Name(rollout.status).removeprefix("ROLLOUT_STATUS_")  # type: ignore[arg-type]
        return f"The rollout is finished: {status}."
    sign_of_life(scope, rollout, attempt, works=False)
    return None


def get(scope: Scope, request: v1.GetWorkerRequest) -> v1.GetWorkerResponse:
    """Return one worker."""
    row = scope.tx.worker(scope.experiment.key, request.worker_id)
    if row is None:
        raise NotFound(
            f"Worker {request.worker_id} not found",
            reason="WORKER_NOT_FOUND",
            metadata={"worker_id": request.worker_id},
        )
    return v1.GetWorkerResponse(worker=messages.worker(row))


def list_workers(scope: Scope, request: v1.ListWorkersRequest) -> v1.ListWorkersResponse:
    """Return a page of workers."""
    conditions = []
    if request.filter.HasField("status_in"):
        for status in request.filter.status_in.values:
            check_known(status, v1.WorkerStatus, "filter.status_in")
        conditions.append(Condition("status", "in", request.filter.status_in.values))
    if request.filter.HasField("worker_id_contains"):
        conditions.append(Condition("worker_id", "contains", request.filter.worker_id_contains))
    query = start_query(
        request,
        WORKERS,
        "created",
        must=[Condition("experiment", "equals", scope.experiment.key)],
        conditions=conditions,
        logic=request.filter.logic,
    )
    found, page_info = collect(request, query, scope.tx.worker_list(query), messages.worker)
    if request.page.with_total_size:
        page_info.total_size = scope.tx.total(WORKERS, query)
    return v1.ListWorkersResponse(workers=found, page_info=page_info)
