"""The rows that storages keep.

Times are nanoseconds since the Unix epoch by the server's clock, durations nanoseconds. Statuses and modes are the
numbers of the contract's enums. `bytes` fields that are not fingerprints hold serialised messages of the contract.
`key` is the row's own number, given by the storage when the row is inserted, and grows with every insert.
"""

from __future__ import annotations

from dataclasses import dataclass

END_OF_TIME = (1 << 63) - 1
"""The last time that can be stored, in nanoseconds since the epoch."""


@dataclass(slots=True)
class ExperimentRow:
    """An experiment."""

    key: int
    name: str
    create_time: int
    latest_resources: int | None
    """Key of the resources that were added or updated last."""
    forgotten_seq: int
    """The highest change number of a tombstone that is no longer kept."""


@dataclass(slots=True)
class RolloutRow:
    """The state of a rollout; its input and metadata stand apart, since they are large and seldom change."""

    key: int
    experiment: int
    rollout_id: str
    status: int
    mode: int
    resources_id: str | None
    start_time: int
    end_time: int | None
    queued: int
    """1 while the rollout waits in the queue."""
    queue_place: int
    """Its place in the queue, or the last one it had: places grow towards the tail."""
    change_seq: int
    last_attempt: int | None
    """Key of the attempt with the highest number."""
    attempts: int
    """Number of the attempt with the highest number; 0 when there is none."""
    span_seq: int
    """The highest number given to a span."""
    spans: int
    span_bytes: int
    config: bytes
    """A `RolloutConfig`."""
    fingerprint: bytes
    """Digest of the request that created it."""


@dataclass(slots=True)
class AttemptRow:
    """An attempt."""

    key: int
    experiment: int
    rollout: int
    """Key of its rollout."""
    attempt_id: str
    sequence_id: int
    status: int
    start_time: int
    end_time: int | None
    worker_id: str | None
    claim_id: str | None
    last_heartbeat_time: int | None
    """What people are shown."""
    beat: int
    """What the watchdog goes by: the last sign of life, or the start of the server if that was later."""
    lease: int | None
    """Length of its lease."""
    expires_at: int | None
    """When the watchdog must look at it; None when it has no limits or has ended."""
    charged: int
    """1 when it counts as an attempt of the config."""
    evicted_spans: int
    prior_status: int
    """What the rollout was before this attempt, for the case that it is handed back."""
    prior_end_time: int | None
    details: bytes
    """An `Attempt` with `metadata`, `failure` and `late_report` only."""


@dataclass(slots=True)
class SpanRow:
    """A span."""

    key: int
    rollout: int
    attempt: int
    trace_id: bytes | None
    span_id: bytes | None
    parent_id: bytes | None
    sequence_id: int
    start_time: int
    end_time: int
    name: str
    source: int
    """Key of the resource and scope that it came from."""
    body: bytes
    """The whole `Span`, whose number is that of the row."""


@dataclass(slots=True)
class ResourcesRow:
    """A published set of resources."""

    key: int
    experiment: int
    resources_id: str
    version: int
    create_time: int
    update_time: int
    fingerprint: bytes
    """Digest of the content."""
    body: bytes
    """A `Resources` with `resources` only."""


@dataclass(slots=True)
class WorkerRow:
    """A worker."""

    key: int
    experiment: int
    worker_id: str
    status: int
    last_heartbeat_time: int | None
    last_dequeue_time: int | None
    last_busy_time: int | None
    last_idle_time: int | None
    current_rollout_id: str | None
    current_attempt_id: str | None
    draining: int
    stats: bytes | None
    """The `Payload` of its last heartbeat."""


@dataclass(slots=True)
class TombstoneRow:
    """What is left of a deleted rollout."""

    key: int
    experiment: int
    rollout_id: str
    change_seq: int
    delete_time: int
