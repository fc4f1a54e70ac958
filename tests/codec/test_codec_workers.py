from __future__ import annotations

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from agentlightning.codec.errors import CodecError
from agentlightning.codec.payload import to_payload
from agentlightning.codec.workers import commanded_worker_from_message, worker_from_message
from agentlightning.types import CancelAttempt, CommandedWorker, Drain, Worker
from lightning_store import v1

WORKER = v1.Worker(
    worker_id="w-1",
    status=v1.WORKER_STATUS_BUSY,
    heartbeat_stats=to_payload({"cpu": 0.5}, ""),
    last_heartbeat_time=Timestamp(seconds=1),
    last_dequeue_time=Timestamp(seconds=2),
    last_busy_time=Timestamp(seconds=3),
    last_idle_time=Timestamp(seconds=4),
    current_rollout_id="ro-1",
    current_attempt_id="at-1",
    draining=True,
)
EXPECTED = {
    "worker_id": "w-1",
    "status": "busy",
    "heartbeat_stats": {"cpu": 0.5},
    "last_heartbeat_time": 1.0,
    "last_dequeue_time": 2.0,
    "last_busy_time": 3.0,
    "last_idle_time": 4.0,
    "current_rollout_id": "ro-1",
    "current_attempt_id": "at-1",
    "draining": True,
}


def test_a_worker_is_read_whole() -> None:
    worker = worker_from_message(WORKER)
    assert worker == Worker.model_validate(EXPECTED)
    assert worker.model_dump() == EXPECTED


def test_a_worker_of_whom_little_is_known_has_nones() -> None:
    message = v1.Worker(worker_id="w-1", status=v1.WORKER_STATUS_UNKNOWN)
    assert worker_from_message(message) == Worker(worker_id="w-1")


def test_commands_come_with_the_worker() -> None:
    commands = [
        v1.WorkerCommand(cancel_attempt=v1.CancelAttempt(rollout_id="r", attempt_id="a", reason="gone")),
        v1.WorkerCommand(),
        v1.WorkerCommand(drain=v1.Drain(reason="update")),
    ]
    worker = commanded_worker_from_message(WORKER, commands)
    assert worker == CommandedWorker.model_validate(
        {
            **EXPECTED,
            "commands": [
                CancelAttempt(rollout_id="r", attempt_id="a", reason="gone"),
                Drain(reason="update"),
            ],
        }
    )
    assert CommandedWorker.model_validate_json(worker.model_dump_json()) == worker


def test_an_unknown_status_raises_the_codec_error() -> None:
    with pytest.raises(CodecError, match="worker status"):
        worker_from_message(v1.Worker())
