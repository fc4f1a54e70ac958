"""The contract of a store, as algorithms, runners and tools call it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict

from agentlightning.types import (
    Attempt,
    AttemptedRollout,
    AttemptFailure,
    AttemptStatus,
    ClaimedRollouts,
    EnqueueRolloutRequest,
    NamedResources,
    ResourcesUpdate,
    Rollout,
    RolloutConfig,
    RolloutMode,
    RolloutStatus,
    Span,
    TaskInput,
    Worker,
    WorkerStatus,
)

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

__all__ = [
    "UNSET",
    "LightningStore",
    "LightningStoreCapabilities",
    "LightningStoreStatistics",
    "Unset",
    "is_finished",
    "is_queuing",
    "is_running",
]


def is_queuing(rollout: Rollout) -> bool:
    """Tells whether `rollout` waits for a runner."""
    return rollout.status in ("queuing", "requeuing")


def is_running(rollout: Rollout) -> bool:
    """Tells whether `rollout` is with a runner."""
    return rollout.status in ("preparing", "running")


def is_finished(rollout: Rollout) -> bool:
    """Tells whether `rollout` has come to its end, a good one or not."""
    return rollout.status in ("failed", "succeeded", "cancelled")


class Unset:
    """The type of `UNSET`, which stands for "leave it as it is" where `None` means "take it away"."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "UNSET"

    def __reduce__(self) -> str:
        # A name makes copies and unpickled ones the very same object, so that `is UNSET` holds everywhere.
        return "UNSET"


UNSET: Final = Unset()
"""The default of parameters that leave things as they are. Compare with `is`."""


class LightningStoreCapabilities(TypedDict):
    """What a store can be used for."""

    thread_safe: bool
    """It may be called from several threads."""
    async_safe: bool
    """It may be called from several coroutines of one event loop."""
    zero_copy: bool
    """It may be used from several processes, all of which see the same data."""
    otlp_traces: bool
    """It takes spans in OpenTelemetry's own protocol at `otlp_traces_endpoint()`."""


class _Totals(TypedDict):
    name: str
    """The kind of storage."""
    total_rollouts: int
    """Rollouts in all."""
    total_attempts: int
    """Attempts in all."""
    total_spans: int
    """Stored spans."""
    total_resources: int
    """Sets of resources."""
    total_workers: int
    """Workers that ever appeared."""
    uptime: float
    """Seconds since the store was started."""


class LightningStoreStatistics(_Totals, total=False):
    """Totals of a store."""

    total_span_bytes: int
    """Bytes of the stored spans."""
    eviction_threshold_bytes: int
    """Bytes of spans above which the store drops those of finished rollouts; 0 when it never does."""
    safe_threshold_bytes: int
    """Bytes of spans down to which it then drops."""
    evicted_spans: int
    """Spans that were dropped."""


class LightningStore:
    """What algorithms and runners meet at: rollouts, attempts, spans, resources and workers.

    All times are seconds since the epoch and all durations seconds. What a method returns is a copy: changing it
    changes nothing in the store. A lost connection and the like raise `StoreError`; the faults of a call are named with
    each method.
    """

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        """What this store can be used for."""
        return LightningStoreCapabilities(thread_safe=False, async_safe=False, zero_copy=False, otlp_traces=False)

    async def statistics(self) -> LightningStoreStatistics:
        """Returns the totals of the store."""
        raise NotImplementedError

    def otlp_traces_endpoint(self) -> str:
        """Returns the address that takes spans in OpenTelemetry's own protocol.

        Raises:
            NotImplementedError: The store has none; see `capabilities`.
        """
        raise NotImplementedError

    async def start_rollout(
        self,
        input: TaskInput,
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        config: RolloutConfig | None = None,
        metadata: dict[str, Any] | None = None,
        worker_id: str | None = None,
        *,
        rollout_id: str | None = None,
        lease: float | None = None,
    ) -> AttemptedRollout:
        """Creates a rollout and its first attempt at once, for a caller that runs it itself. It is never queued.

        Args:
            input: What the agent is asked to do; anything that JSON can carry.
            mode: Which split of the data it belongs to.
            resources_id: The resources to run with; `None` means those that are the latest now.
            config: Limits and retries; `None` means none.
            metadata: Notes to keep with it.
            worker_id: The worker that runs it.
            rollout_id: The id to give it; `None` makes one up.
            lease: Seconds after which the attempt is given up unless it is renewed; `None` means never.

        Returns:
            The rollout, `preparing`, with its attempt.

        Raises:
            TypeError: Part of `input` or `metadata` is nothing that JSON can carry; the message says which part.
            ValueError: An argument is not allowed, or `rollout_id` is taken.
        """
        raise NotImplementedError

    async def enqueue_rollout(
        self,
        input: TaskInput,
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        config: RolloutConfig | None = None,
        metadata: dict[str, Any] | None = None,
        *,
        rollout_id: str | None = None,
    ) -> Rollout:
        """Creates a rollout at the tail of the queue.

        Args:
            input: What the agent is asked to do; anything that JSON can carry.
            mode: Which split of the data it belongs to.
            resources_id: The resources to run with; `None` means those that are the latest now.
            config: Limits and retries; `None` means none.
            metadata: Notes to keep with it.
            rollout_id: The id to give it; `None` makes one up.

        Returns:
            The rollout, `queuing`.

        Raises:
            TypeError: Part of `input` or `metadata` is nothing that JSON can carry; the message says which part.
            ValueError: An argument is not allowed, or `rollout_id` is taken.
        """
        raise NotImplementedError

    async def enqueue_many_rollouts(self, rollouts: Sequence[EnqueueRolloutRequest]) -> Sequence[Rollout]:
        """Creates rollouts at the tail of the queue, in the order given.

        Up to 1,000 are created all or none; more go in portions of that size.

        Returns:
            The rollouts in the order given.

        Raises:
            TypeError: Part of an input or of metadata is nothing that JSON can carry; the message says which part.
            ValueError: A value is not allowed, or an id is taken.
        """
        raise NotImplementedError

    async def dequeue_rollout(
        self, worker_id: str | None = None, *, wait: float | None = None, lease: float | None = None
    ) -> AttemptedRollout | None:
        """Claims the rollout at the head of the queue and creates an attempt for it.

        Args:
            worker_id: The worker that claims.
            wait: Seconds to wait for work when there is none; `None` and 0 answer at once.
            lease: Seconds after which the attempt is given up unless `update_worker` renews it; `None` means never.

        Returns:
            The rollout, `preparing`, with its new attempt; `None` when there was no work.
        """
        raise NotImplementedError

    async def dequeue_many_rollouts(
        self,
        *,
        limit: int = 1,
        worker_id: str | None = None,
        wait: float | None = None,
        lease: float | None = None,
    ) -> Sequence[AttemptedRollout]:
        """Claims rollouts from the head of the queue and creates an attempt for each.

        Args:
            limit: The most to claim; 0 and below claim none.
            worker_id: The worker that claims.
            wait: Seconds to wait for the first one when there is none; `None` and 0 answer at once.
            lease: Seconds after which the attempts are given up unless `update_worker` renews them.

        Returns:
            The rollouts, each `preparing` with its new attempt; fewer than `limit` when there are no more.
        """
        raise NotImplementedError

    async def claim_rollouts(
        self,
        *,
        limit: int = 1,
        worker_id: str | None = None,
        wait: float | None = None,
        lease: float | None = None,
        known_resources: Sequence[tuple[str, int]] = (),
    ) -> ClaimedRollouts:
        """Claims rollouts as `dequeue_many_rollouts` does, together with the resources that they need.

        A store that cannot send resources along leaves them out, and the caller asks for them by id.

        Args:
            limit: The most to claim; 0 and below claim none.
            worker_id: The worker that claims.
            wait: Seconds to wait for the first one when there is none; `None` and 0 answer at once.
            lease: Seconds after which the attempts are given up unless `update_worker` renews them.
            known_resources: `(resources_id, version)` of what the caller has and need not be sent.

        Returns:
            The rollouts, the resources, and whether the worker is to leave.
        """
        rollouts = await self.dequeue_many_rollouts(limit=limit, worker_id=worker_id, wait=wait, lease=lease)
        return ClaimedRollouts(rollouts=list(rollouts))

    async def release_attempts(self, attempts: Sequence[tuple[str, str]]) -> Sequence[tuple[str, str]]:
        """Hands attempts back that were claimed and not begun; their rollouts take their old places in the queue.

        Args:
            attempts: `(rollout_id, attempt_id)` of each.

        Returns:
            Those that were handed back. Unknown, begun and ended ones are left alone.
        """
        raise NotImplementedError

    async def start_attempt(
        self, rollout_id: str, worker_id: str | None = None, *, lease: float | None = None
    ) -> AttemptedRollout:
        """Creates a further attempt of a rollout, whatever its status and its `max_attempts`.

        Args:
            rollout_id: The rollout.
            worker_id: The worker that runs it.
            lease: Seconds after which the attempt is given up unless it is renewed; `None` means never.

        Returns:
            The rollout, `preparing`, with the new attempt.

        Raises:
            ValueError: There is no such rollout.
        """
        raise NotImplementedError

    async def add_span(self, span: Span) -> Span | None:
        """Stores a span. It is also a sign of life of its attempt.

        Returns:
            The span with the sequence id that it has in the store; `None` if it was stored before.

        Raises:
            ValueError: There is no such rollout or attempt, or an id of the span is not hex.
        """
        raise NotImplementedError

    async def add_many_spans(self, spans: Sequence[Span]) -> Sequence[Span]:
        """Stores spans. Up to 4 MB are stored all or none; more go in portions of about that size.

        Returns:
            The spans with the sequence ids that they have in the store, without those that were stored before.

        Raises:
            ValueError: There is no such rollout or attempt, or an id of a span is not hex.
        """
        raise NotImplementedError

    async def add_otel_span(
        self, rollout_id: str, attempt_id: str, readable_span: ReadableSpan, sequence_id: int | None = None
    ) -> Span | None:
        """Stores a span that OpenTelemetry's SDK recorded.

        Args:
            rollout_id: The rollout to file it under.
            attempt_id: The attempt to file it under.
            readable_span: The finished span.
            sequence_id: Its place in the rollout; `None` takes the next one.

        Returns:
            The span as it is stored; `None` if it was stored before.

        Raises:
            ValueError: There is no such rollout or attempt.
        """
        raise NotImplementedError

    async def query_rollouts(
        self,
        *,
        status_in: Sequence[RolloutStatus] | None = None,
        rollout_id_in: Sequence[str] | None = None,
        rollout_id_contains: str | None = None,
        filter_logic: Literal["and", "or"] = "and",
        sort_by: str | None = None,
        sort_order: Literal["asc", "desc"] = "asc",
        limit: int = -1,
        offset: int = 0,
        status: Sequence[RolloutStatus] | None = None,
        rollout_ids: Sequence[str] | None = None,
    ) -> Sequence[Rollout]:
        """Lists rollouts.

        Args:
            status_in: Statuses to match. An empty list matches nothing, `None` everything.
            rollout_id_in: Ids to match. An empty list matches nothing, `None` everything.
            rollout_id_contains: Part of the id to match, case-sensitive.
            filter_logic: Whether all conditions must hold or one is enough.
            sort_by: The field to sort by; `None` means the order of creation.
            sort_order: Rising or falling.
            limit: The most to return; -1 returns all.
            offset: How many to leave out first.
            status: Deprecated name of `status_in`.
            rollout_ids: Deprecated name of `rollout_id_in`.

        Returns:
            A `PaginatedResult`; those that have an attempt are `AttemptedRollout`s with their latest.

        Raises:
            ValueError: `sort_by` is no field of a rollout that can be sorted by.
        """
        raise NotImplementedError

    async def query_attempts(
        self,
        rollout_id: str,
        *,
        sort_by: str | None = "sequence_id",
        sort_order: Literal["asc", "desc"] = "asc",
        limit: int = -1,
        offset: int = 0,
    ) -> Sequence[Attempt]:
        """Lists the attempts of a rollout; an unknown one has none.

        Args:
            rollout_id: The rollout.
            sort_by: The field to sort by; `None` means `sequence_id`.
            sort_order: Rising or falling.
            limit: The most to return; -1 returns all.
            offset: How many to leave out first.

        Returns:
            A `PaginatedResult`.

        Raises:
            ValueError: `sort_by` is no field of an attempt that can be sorted by.
        """
        raise NotImplementedError

    async def get_rollout_by_id(self, rollout_id: str) -> Rollout | None:
        """Returns a rollout, with its latest attempt if it has one; `None` if there is no such rollout."""
        raise NotImplementedError

    async def get_latest_attempt(self, rollout_id: str) -> Attempt | None:
        """Returns the attempt with the highest number; `None` if there is no such rollout or it has none."""
        raise NotImplementedError

    async def query_resources(
        self,
        *,
        resources_id: str | None = None,
        resources_id_contains: str | None = None,
        sort_by: str | None = None,
        sort_order: Literal["asc", "desc"] = "asc",
        limit: int = -1,
        offset: int = 0,
    ) -> Sequence[ResourcesUpdate]:
        """Lists sets of resources.

        Args:
            resources_id: The id to match.
            resources_id_contains: Part of the id to match, case-sensitive.
            sort_by: The field to sort by; `None` means the order of creation.
            sort_order: Rising or falling.
            limit: The most to return; -1 returns all.
            offset: How many to leave out first.

        Returns:
            A `PaginatedResult`.

        Raises:
            ValueError: `sort_by` is no field that sets of resources can be sorted by.
        """
        raise NotImplementedError

    async def get_resources_by_id(self, resources_id: str) -> ResourcesUpdate | None:
        """Returns a set of resources; `None` if there is no such set."""
        raise NotImplementedError

    async def get_latest_resources(self) -> ResourcesUpdate | None:
        """Returns the set that was added or updated last; `None` if there is none yet."""
        raise NotImplementedError

    async def get_next_span_sequence_id(self, rollout_id: str, attempt_id: str) -> int:
        """Takes the next number for a span of a rollout. Numbers start at 1 and are shared by its attempts.

        Raises:
            ValueError: There is no such rollout or attempt.
        """
        raise NotImplementedError

    async def get_many_span_sequence_ids(self, rollout_attempt_ids: Sequence[tuple[str, str]]) -> Sequence[int]:
        """Takes one number for each `(rollout_id, attempt_id)` given, in that order.

        Raises:
            ValueError: There is no such rollout or attempt.
        """
        raise NotImplementedError

    async def wait_for_rollouts(self, *, rollout_ids: list[str], timeout: float | None = None) -> list[Rollout]:
        """Waits until the rollouts have finished.

        Args:
            rollout_ids: What to wait for. Unknown ids are not waited for.
            timeout: Seconds to wait at most, for all together. `None` waits for ever; 0 and below do not wait.

        Returns:
            Those that have finished, in the order given. It never raises because time is up.
        """
        raise NotImplementedError

    def wait_iter(self, *, rollout_ids: Sequence[str], timeout: float | None = None) -> AsyncGenerator[Rollout, None]:
        """Yields each of the rollouts as it finishes, and ends when none is left or the time is up.

        Close it (`contextlib.aclosing`) when you leave it early.

        Args:
            rollout_ids: What to wait for. Unknown ids are not waited for.
            timeout: Seconds to wait at most, for all together. `None` waits for ever; 0 and below do not wait.
        """
        raise NotImplementedError

    async def query_spans(
        self,
        rollout_id: str,
        attempt_id: str | None = None,
        *,
        trace_id: str | None = None,
        trace_id_contains: str | None = None,
        span_id: str | None = None,
        span_id_contains: str | None = None,
        parent_id: str | None = None,
        parent_id_contains: str | None = None,
        name: str | None = None,
        name_contains: str | None = None,
        filter_logic: Literal["and", "or"] = "and",
        limit: int = -1,
        offset: int = 0,
        sort_by: str | None = "sequence_id",
        sort_order: Literal["asc", "desc"] = "asc",
    ) -> Sequence[Span]:
        """Lists the spans of a rollout; an unknown one has none.

        Args:
            rollout_id: The rollout.
            attempt_id: One attempt, `latest` for that with the highest number, `None` for all.
            trace_id: The trace to match, in lower-case hex.
            trace_id_contains: Part of it to match.
            span_id: The span id to match, in lower-case hex.
            span_id_contains: Part of it to match.
            parent_id: The id of the parent span to match, in lower-case hex.
            parent_id_contains: Part of it to match.
            name: The name to match.
            name_contains: Part of it to match, case-sensitive.
            filter_logic: Whether all conditions must hold or one is enough.
            limit: The most to return; -1 returns all.
            offset: How many to leave out first.
            sort_by: The field to sort by; `None` means `sequence_id`.
            sort_order: Rising or falling.

        Returns:
            A `PaginatedResult`.

        Raises:
            RuntimeError: The store dropped spans of the attempts asked for, to keep within its memory.
            ValueError: `sort_by` is no field of a span that can be sorted by.
        """
        raise NotImplementedError

    async def add_resources(self, resources: NamedResources) -> ResourcesUpdate:
        """Publishes a new set of resources, which becomes the latest.

        Args:
            resources: The resources by name, in an order that is kept.

        Raises:
            TypeError: Part of a resource is nothing that JSON can carry; the message says which part.
        """
        raise NotImplementedError

    async def update_resources(self, resources_id: str, resources: NamedResources) -> ResourcesUpdate:
        """Replaces a set of resources as a whole, or creates it; either way it becomes the latest.

        Args:
            resources_id: The set.
            resources: The resources by name, in an order that is kept.

        Raises:
            TypeError: Part of a resource is nothing that JSON can carry; the message says which part.
        """
        raise NotImplementedError

    async def update_rollout(
        self,
        rollout_id: str,
        input: TaskInput | Unset = UNSET,
        mode: RolloutMode | Unset | None = UNSET,
        resources_id: str | Unset | None = UNSET,
        status: RolloutStatus | Unset = UNSET,
        config: RolloutConfig | Unset = UNSET,
        metadata: dict[str, Any] | Unset | None = UNSET,
    ) -> Rollout:
        """Changes a rollout: the algorithm's own word, which may set any status, a finished rollout's too.

        `queuing` and `requeuing` put it at the queue's tail, any other status takes it out of the queue.

        Args:
            rollout_id: The rollout.
            input: The new input.
            mode: The new mode.
            resources_id: The new resources.
            status: The new status.
            config: The new limits and retries.
            metadata: The new notes, all of them.

        Returns:
            The rollout after the change.

        Raises:
            TypeError: Part of `input` or `metadata` is nothing that JSON can carry; the message says which part.
            ValueError: There is no such rollout, or an argument is not allowed.
        """
        raise NotImplementedError

    async def update_attempt(
        self,
        rollout_id: str,
        attempt_id: str,
        status: AttemptStatus | Unset = UNSET,
        worker_id: str | Unset | None = UNSET,
        last_heartbeat_time: float | Unset = UNSET,
        metadata: dict[str, Any] | Unset | None = UNSET,
        *,
        failure: AttemptFailure | Unset = UNSET,
    ) -> Attempt:
        """Reports on an attempt. The status of the latest one moves its rollout, unless that is finished.

        A report on an attempt that has ended changes nothing but its `late_report`.

        Args:
            rollout_id: The rollout.
            attempt_id: The attempt, or `latest` for that with the highest number.
            status: The new status.
            worker_id: The worker that holds it.
            last_heartbeat_time: When it last showed life.
            metadata: The new notes, all of them.
            failure: What went wrong; goes with the status `failed`.

        Returns:
            The attempt after the report.

        Raises:
            TypeError: Part of `metadata` is nothing that JSON can carry; the message says which part.
            ValueError: There is no such rollout or attempt, or an argument is not allowed.
        """
        raise NotImplementedError

    async def delete_rollouts(
        self, *, rollout_ids: Sequence[str] | None = None, status_in: Sequence[RolloutStatus] | None = None
    ) -> Sequence[str]:
        """Deletes rollouts with their attempts and spans.

        Args:
            rollout_ids: Ids to delete; unknown ones are left out of the answer.
            status_in: Statuses to delete. With both, a rollout must match both.

        Returns:
            The ids that were deleted.

        Raises:
            ValueError: Neither selector is given.
        """
        raise NotImplementedError

    async def query_workers(
        self,
        *,
        status_in: Sequence[WorkerStatus] | None = None,
        worker_id_contains: str | None = None,
        filter_logic: Literal["and", "or"] = "and",
        sort_by: str | None = None,
        sort_order: Literal["asc", "desc"] = "asc",
        limit: int = -1,
        offset: int = 0,
    ) -> Sequence[Worker]:
        """Lists workers.

        Args:
            status_in: Statuses to match. An empty list matches nothing, `None` everything.
            worker_id_contains: Part of the id to match, case-sensitive.
            filter_logic: Whether all conditions must hold or one is enough.
            sort_by: The field to sort by; `None` means the order of first appearance.
            sort_order: Rising or falling.
            limit: The most to return; -1 returns all.
            offset: How many to leave out first.

        Returns:
            A `PaginatedResult`.

        Raises:
            ValueError: `sort_by` is no field of a worker that can be sorted by.
        """
        raise NotImplementedError

    async def get_worker_by_id(self, worker_id: str) -> Worker | None:
        """Returns a worker; `None` if there is no such worker."""
        raise NotImplementedError

    async def update_worker(
        self,
        worker_id: str,
        heartbeat_stats: dict[str, Any] | Unset = UNSET,
        *,
        held: Sequence[tuple[str, str]] = (),
        draining: bool | Unset = UNSET,
    ) -> Worker:
        """Takes the heartbeat of a worker; creates it if it does not exist.

        Args:
            worker_id: The worker.
            heartbeat_stats: What it says about its machine.
            held: `(rollout_id, attempt_id)` of the attempts that it holds; their leases are renewed.
            draining: An operator's word: `True` asks the worker to leave when done, `False` takes that back.

        Returns:
            The worker. Where the store can tell workers what to do, a `CommandedWorker`.

        Raises:
            TypeError: Part of `heartbeat_stats` is nothing that JSON can carry; the message says which part.
        """
        raise NotImplementedError
