"""Workers and what they are told."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from agentlightning.codec.enums import WORKER_STATUS
from agentlightning.codec.models import build
from agentlightning.codec.payload import object_from_payload
from agentlightning.codec.times import from_timestamp
from agentlightning.types import CancelAttempt, CommandedWorker, Drain, Worker, WorkerCommand
from lightning_store import v1


def worker_from_message(message: v1.Worker) -> Worker:
    """Decodes a worker."""
    return build(Worker, _worker_fields(message))


def commanded_worker_from_message(message: v1.Worker, commands: Iterable[v1.WorkerCommand]) -> CommandedWorker:
    """Decodes a worker with what it is told. A command of a newer contract is left out: nobody here could obey it."""
    fields = _worker_fields(message)
    fields["commands"] = [command for command in map(_command_from_message, commands) if command is not None]
    return build(CommandedWorker, fields)


def _worker_fields(message: v1.Worker) -> dict[str, Any]:
    has = message.HasField
    return {
        "worker_id": message.worker_id,
        "status": WORKER_STATUS.word(message.status),
        "heartbeat_stats": object_from_payload(message.heartbeat_stats, "worker.heartbeat_stats")
        if has("heartbeat_stats")
        else None,
        "last_heartbeat_time": from_timestamp(message.last_heartbeat_time) if has("last_heartbeat_time") else None,
        "last_dequeue_time": from_timestamp(message.last_dequeue_time) if has("last_dequeue_time") else None,
        "last_busy_time": from_timestamp(message.last_busy_time) if has("last_busy_time") else None,
        "last_idle_time": from_timestamp(message.last_idle_time) if has("last_idle_time") else None,
        "current_rollout_id": message.current_rollout_id if has("current_rollout_id") else None,
        "current_attempt_id": message.current_attempt_id if has("current_attempt_id") else None,
        "draining": message.draining,
    }


def _command_from_message(message: v1.WorkerCommand) -> WorkerCommand | None:
    which = message.WhichOneof("command")
    if which == "cancel_attempt":
        cancel = message.cancel_attempt
        return CancelAttempt(rollout_id=cancel.rollout_id, attempt_id=cancel.attempt_id, reason=cancel.reason)
    if which == "drain":
        return Drain(reason=message.drain.reason)
    return None
