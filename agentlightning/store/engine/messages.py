"""Rows turned into messages of the contract, and the small values inside them."""

from __future__ import annotations

import hashlib

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from agentlightning.store.storage.rows import AttemptRow, ExperimentRow, ResourcesRow, WorkerRow
from agentlightning.store.storage.tx import RolloutView
from lightning_store import v1

SECOND = 1_000_000_000
"""Nanoseconds in a second."""


def timestamp(time: int | None) -> Timestamp | None:
    """Return nanoseconds since the epoch as a message; None stays unset."""
    return None if time is None else Timestamp(seconds=time // SECOND, nanos=time % SECOND)


def timestamp_ns(message: Message, field: str) -> int | None:
    """Return a field that holds a time in nanoseconds since the epoch; None when it is unset."""
    if not message.HasField(field):
        return None
    value: Timestamp = getattr(message, field)
    return value.seconds * SECOND + value.nanos


def duration_ns(message: Message, field: str) -> int | None:
    """Return a field that holds a duration in nanoseconds; None when it is unset."""
    if not message.HasField(field):
        return None
    value: Duration = getattr(message, field)
    return value.seconds * SECOND + value.nanos


def duration(length: int) -> Duration:
    """Return nanoseconds as a message."""
    return Duration(seconds=length // SECOND, nanos=length % SECOND)


def fingerprint(message: Message) -> bytes:
    """Return a digest that two messages share only if they say the same."""
    return hashlib.blake2b(message.SerializeToString(deterministic=True), digest_size=16).digest()


def rollout(view: RolloutView, now: int) -> v1.Rollout:
    """Return a rollout with its latest attempt."""
    row, body, attempt = view
    stored = v1.NewRollout.FromString(body)
    return v1.Rollout(
        rollout_id=row.rollout_id,
        input=stored.input,
        mode=row.mode,  # type: ignore[arg-type]
        resources_id=row.resources_id,
        status=row.status,  # type: ignore[arg-type]
        config=v1.RolloutConfig.FromString(row.config),
        metadata=stored.metadata if stored.HasField("metadata") else None,
        start_time=timestamp(row.start_time),
        end_time=timestamp(row.end_time),
        latest_attempt=None if attempt is None else attempt_message(attempt, row.rollout_id, now),
    )


def attempt_message(row: AttemptRow, rollout_id: str, now: int) -> v1.Attempt:
    """Return an attempt of the rollout `rollout_id`."""
    message = v1.Attempt.FromString(row.details)
    message.rollout_id = rollout_id
    message.attempt_id = row.attempt_id
    message.sequence_id = row.sequence_id
    message.status = row.status  # type: ignore[assignment]
    message.start_time.FromNanoseconds(row.start_time)
    if row.end_time is not None:
        message.end_time.FromNanoseconds(row.end_time)
    if row.worker_id is not None:
        message.worker_id = row.worker_id
    if row.last_heartbeat_time is not None:
        message.last_heartbeat_time.FromNanoseconds(row.last_heartbeat_time)
    if row.lease is not None and row.expires_at is not None:
        message.lease_remaining.FromNanoseconds(max(0, row.beat + row.lease - now))
    return message


def resources(row: ResourcesRow) -> v1.Resources:
    """Return a set of resources."""
    message = v1.Resources.FromString(row.body)
    message.resources_id = row.resources_id
    message.version = row.version
    message.create_time.FromNanoseconds(row.create_time)
    message.update_time.FromNanoseconds(row.update_time)
    return message


def worker(row: WorkerRow) -> v1.Worker:
    """Return a worker."""
    return v1.Worker(
        worker_id=row.worker_id,
        status=row.status,  # type: ignore[arg-type]
        heartbeat_stats=None if row.stats is None else v1.Payload.FromString(row.stats),
        last_heartbeat_time=timestamp(row.last_heartbeat_time),
        last_dequeue_time=timestamp(row.last_dequeue_time),
        last_busy_time=timestamp(row.last_busy_time),
        last_idle_time=timestamp(row.last_idle_time),
        current_rollout_id=row.current_rollout_id,
        current_attempt_id=row.current_attempt_id,
        draining=bool(row.draining),
    )


def experiment(row: ExperimentRow) -> v1.Experiment:
    """Return an experiment."""
    return v1.Experiment(name=row.name, create_time=timestamp(row.create_time))
