"""Taking a posted rollout into the store."""

from __future__ import annotations

from fastapi import HTTPException

from agentlightning.rest.translate import FAILURE, report_text, spans_of_report
from agentlightning.store.base import UNSET, LightningStore
from agentlightning.types import Attempt, AttemptedRollout, AttemptFailure, RolloutLegacy


async def record_report(store: LightningStore, report: RolloutLegacy) -> None:
    """Stores what a client reports, as spans, and ends the attempt that it reports on.

    The first report of an attempt counts: one that was sent again, or that comes after another, changes nothing. One
    that comes after the rollout was handed out anew is kept with its own attempt and leaves the newer one alone.

    Args:
        store: The store.
        report: What the client posted. `task.num_claims` says which attempt it is about, the latest where it is not
            given; `metadata["agentlightning.failure"]` says that the agent failed, and how.

    Raises:
        HTTPException: The report cannot be stored as it is (400), or it is about something that does not exist (404).
    """
    try:
        text = report_text(report)
    except (TypeError, ValueError) as error:
        raise HTTPException(400, str(error)) from error
    attempt = await _reported_attempt(store, report)
    if attempt.status in ("succeeded", "failed"):
        return
    await store.add_many_spans(spans_of_report(report, text, attempt))
    failure = report.metadata.get(FAILURE)
    await store.update_attempt(
        attempt.rollout_id,
        attempt.attempt_id,
        status="succeeded" if failure is None else "failed",
        metadata=report.metadata or UNSET,
        failure=UNSET if failure is None else AttemptFailure(kind="agent_error", message=str(failure)),
    )


async def _reported_attempt(store: LightningStore, report: RolloutLegacy) -> Attempt:
    rollout_id = report.rollout_id
    if report.task is not None and report.task.rollout_id != rollout_id:
        raise HTTPException(400, f"Rollout {rollout_id} cannot answer task {report.task.rollout_id}.")
    rollout = await store.get_rollout_by_id(rollout_id)
    if rollout is None:
        raise HTTPException(404, f"Rollout {rollout_id} not found")
    if not isinstance(rollout, AttemptedRollout):
        raise HTTPException(404, f"Rollout {rollout_id} has not been handed out.")
    number = report.task.num_claims if report.task is not None else None
    if not number or number == rollout.attempt.sequence_id:
        return rollout.attempt
    for attempt in await store.query_attempts(rollout_id):
        if attempt.sequence_id == number:
            return attempt
    raise HTTPException(404, f"Rollout {rollout_id} has no attempt {number}.")
