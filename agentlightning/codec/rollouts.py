"""Rollouts and attempts."""

from __future__ import annotations

import math
from typing import Any

from agentlightning.codec.enums import ATTEMPT_STATUS, FAILURE_KIND, ROLLOUT_MODE, ROLLOUT_STATUS
from agentlightning.codec.models import build
from agentlightning.codec.payload import from_payload, object_from_payload, object_to_payload, to_payload
from agentlightning.codec.times import from_duration, from_timestamp, to_duration
from agentlightning.types import (
    Attempt,
    AttemptedRollout,
    AttemptFailure,
    EnqueueRolloutRequest,
    LateReport,
    Rollout,
    RolloutConfig,
)
from lightning_store import v1


def mode_to_message(mode: Any) -> v1.RolloutMode.ValueType:
    """Encodes a mode or `None`.

    Raises:
        ValueError: It is no mode.
    """
    return v1.ROLLOUT_MODE_UNSPECIFIED if mode is None else ROLLOUT_MODE.number(mode)


def config_to_message(config: RolloutConfig) -> v1.RolloutConfig:
    """Encodes limits and retries. A limit of infinity is no limit.

    Raises:
        TypeError: It is not a `RolloutConfig`.
        ValueError: A value is not allowed.
    """
    if not isinstance(config, RolloutConfig):
        raise TypeError(f"config must be a RolloutConfig, not a {type(config).__name__}")
    message = v1.RolloutConfig(
        max_attempts=config.max_attempts,
        retry_on=[ATTEMPT_STATUS.number(status) for status in config.retry_condition],
        retry_budgets=[
            v1.RetryBudget(kind=FAILURE_KIND.number(kind), max_retries=retries)
            for kind, retries in config.retry_budgets.items()
        ],
    )
    if config.timeout_seconds is not None and config.timeout_seconds != math.inf:
        message.timeout.CopyFrom(to_duration(config.timeout_seconds, "config.timeout_seconds"))
    if config.unresponsive_seconds is not None and config.unresponsive_seconds != math.inf:
        message.unresponsive_timeout.CopyFrom(to_duration(config.unresponsive_seconds, "config.unresponsive_seconds"))
    return message


def config_from_message(message: v1.RolloutConfig) -> RolloutConfig:
    """Decodes limits and retries."""
    return build(
        RolloutConfig,
        {
            "timeout_seconds": from_duration(message.timeout) if message.HasField("timeout") else None,
            "unresponsive_seconds": from_duration(message.unresponsive_timeout)
            if message.HasField("unresponsive_timeout")
            else None,
            "max_attempts": message.max_attempts or 1,
            "retry_condition": [ATTEMPT_STATUS.word(status) for status in message.retry_on],
            "retry_budgets": {FAILURE_KIND.word(budget.kind): budget.max_retries for budget in message.retry_budgets},
        },
    )


def new_rollout_to_message(request: EnqueueRolloutRequest, rollout_id: str) -> v1.NewRollout:
    """Encodes what a creator says of a rollout.

    Args:
        request: What to create. No metadata and empty metadata are the same to a creator.
        rollout_id: The id to give it where the request names none.

    Raises:
        TypeError: Part of the input or of the metadata cannot be carried; the message names the part.
        ValueError: A value is not allowed.
    """
    return v1.NewRollout(
        rollout_id=request.rollout_id or rollout_id,
        input=to_payload(request.input, "input"),
        mode=mode_to_message(request.mode),
        resources_id=request.resources_id or "",
        config=None if request.config is None else config_to_message(request.config),
        metadata=object_to_payload({} if request.metadata is None else request.metadata, "metadata"),
    )


def failure_to_message(failure: AttemptFailure) -> v1.AttemptFailure:
    """Encodes what went wrong in an attempt.

    Raises:
        TypeError: It is not an `AttemptFailure`.
        ValueError: It is of no known kind.
    """
    if not isinstance(failure, AttemptFailure):
        raise TypeError(f"failure must be an AttemptFailure, not a {type(failure).__name__}")
    return v1.AttemptFailure(
        kind=v1.ATTEMPT_FAILURE_KIND_UNSPECIFIED if failure.kind is None else FAILURE_KIND.number(failure.kind),
        message=failure.message,
        # Unset means true.
        retryable=None if failure.retryable else False,
    )


def failure_from_message(message: v1.AttemptFailure) -> AttemptFailure:
    """Decodes what went wrong in an attempt."""
    return build(
        AttemptFailure,
        {
            "kind": FAILURE_KIND.word(message.kind) if message.kind else None,
            "message": message.message,
            "retryable": message.retryable if message.HasField("retryable") else True,
        },
    )


def attempt_from_message(message: v1.Attempt) -> Attempt:
    """Decodes an attempt."""
    has = message.HasField
    return build(
        Attempt,
        {
            "rollout_id": message.rollout_id,
            "attempt_id": message.attempt_id,
            "sequence_id": message.sequence_id,
            "start_time": from_timestamp(message.start_time),
            "end_time": from_timestamp(message.end_time) if has("end_time") else None,
            "status": ATTEMPT_STATUS.word(message.status),
            "worker_id": message.worker_id if has("worker_id") else None,
            "last_heartbeat_time": from_timestamp(message.last_heartbeat_time) if has("last_heartbeat_time") else None,
            "metadata": object_from_payload(message.metadata, "attempt.metadata") if has("metadata") else None,
            "failure": failure_from_message(message.failure) if has("failure") else None,
            "late_report": _late_report_from_message(message.late_report) if has("late_report") else None,
        },
    )


def rollout_from_message(message: v1.Rollout) -> Rollout:
    """Decodes a rollout; an `AttemptedRollout` when it has an attempt."""
    fields = _rollout_fields(message)
    if message.HasField("latest_attempt"):
        fields["attempt"] = attempt_from_message(message.latest_attempt)
        return build(AttemptedRollout, fields)
    return build(Rollout, fields)


def attempted_rollout_from_message(message: v1.Rollout, attempt: v1.Attempt) -> AttemptedRollout:
    """Decodes a rollout together with one of its attempts."""
    fields = _rollout_fields(message)
    fields["attempt"] = attempt_from_message(attempt)
    return build(AttemptedRollout, fields)


def _rollout_fields(message: v1.Rollout) -> dict[str, Any]:
    has = message.HasField
    return {
        "rollout_id": message.rollout_id,
        "input": from_payload(message.input, "rollout.input") if has("input") else None,
        "start_time": from_timestamp(message.start_time),
        "end_time": from_timestamp(message.end_time) if has("end_time") else None,
        "mode": ROLLOUT_MODE.word(message.mode) if message.mode else None,
        "resources_id": message.resources_id if has("resources_id") else None,
        "status": ROLLOUT_STATUS.word(message.status),
        "config": config_from_message(message.config),
        "metadata": object_from_payload(message.metadata, "rollout.metadata") if has("metadata") else None,
    }


def _late_report_from_message(message: v1.LateReport) -> LateReport:
    return build(
        LateReport,
        {
            "status": ATTEMPT_STATUS.word(message.status),
            "report_time": from_timestamp(message.report_time),
            "failure": failure_from_message(message.failure) if message.HasField("failure") else None,
        },
    )
