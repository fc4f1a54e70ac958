"""`StoreFace`: the one implementation of `LightningStore`, over any `StoreApi`."""

from __future__ import annotations

import asyncio
import math
import secrets
import uuid
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from agentlightning.codec.enums import ATTEMPT_STATUS, ROLLOUT_STATUS, WORKER_STATUS
from agentlightning.codec.errors import CodecError
from agentlightning.codec.payload import object_to_payload, to_payload
from agentlightning.codec.resources import resources_from_message, resources_to_messages
from agentlightning.codec.rollouts import (
    attempt_from_message,
    attempted_rollout_from_message,
    config_to_message,
    failure_to_message,
    mode_to_message,
    new_rollout_to_message,
    rollout_from_message,
)
from agentlightning.codec.spans import add_spans_requests, spans_from_messages
from agentlightning.codec.times import from_duration, to_duration, to_timestamp
from agentlightning.codec.workers import commanded_worker_from_message, worker_from_message
from agentlightning.store.api import (
    DEFAULT_EXPERIMENT,
    LONGEST_POLL,
    MOST_IDS,
    MOST_ITEMS,
    MOST_SPANS,
    CallContext,
    StoreApi,
)
from agentlightning.store.base import UNSET, LightningStore, LightningStoreCapabilities, LightningStoreStatistics, Unset
from agentlightning.store.errors import (
    AlreadyExists,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    StoreError,
    Unavailable,
)
from agentlightning.store.remote.retries import Budgets, RetryPolicy
from agentlightning.types import (
    Attempt,
    AttemptedRollout,
    AttemptFailure,
    AttemptStatus,
    ClaimedRollouts,
    CommandedWorker,
    EnqueueRolloutRequest,
    NamedResources,
    PaginatedResult,
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
from lightning_store import v1

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

Request = TypeVar("Request")
Response = TypeVar("Response")
Item = TypeVar("Item")
AskForPage = Callable[[v1.Page], Awaitable[tuple[list[Item], v1.PageInfo]]]

_BATCH_BYTES = 4_000_000
# Items that an iteration holds at a time; the server ends a page sooner when it grows too large.
_ITER_PAGE = 500
# A little less than the server allows leaves the end of the wait to this side.
_LONGEST_POLL = LONGEST_POLL - 10.0
# How long a store may be silent when the time of a wait is up.
_GRACE = 2.0
_OUTAGES = RetryPolicy()


class StoreFace(LightningStore):
    """A store whose work is done by a `StoreApi`, in this process or behind a connection.

    Args:
        api: Does the work.
        experiment: The experiment to work on.
    """

    def __init__(self, api: StoreApi, *, experiment: str = DEFAULT_EXPERIMENT) -> None:
        self._api = api
        self._context = CallContext(experiment=experiment)

    @property
    def api(self) -> StoreApi:
        """What does the work, for those who have messages to hand to it."""
        return self._api

    @property
    def context(self) -> CallContext:
        """What goes with each call of it."""
        return self._context

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        return LightningStoreCapabilities(thread_safe=True, async_safe=True, zero_copy=False, otlp_traces=False)

    async def statistics(self) -> LightningStoreStatistics:
        response = await self._call(self._api.get_statistics, v1.GetStatisticsRequest())
        return LightningStoreStatistics(
            name=response.storage,
            total_rollouts=response.total_rollouts,
            total_attempts=response.total_attempts,
            total_spans=response.total_spans,
            total_resources=response.total_resources,
            total_workers=response.total_workers,
            uptime=from_duration(response.uptime),
            total_span_bytes=response.total_span_bytes,
            eviction_threshold_bytes=response.eviction_threshold_bytes,
            safe_threshold_bytes=response.safe_threshold_bytes,
            evicted_spans=response.evicted_spans,
        )

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
        wanted = _wanted(input, mode, resources_id, config, metadata, rollout_id)
        request = v1.StartRolloutRequest(
            rollout=new_rollout_to_message(wanted, _new_id("ro", 6)),
            worker_id=worker_id or "",
            lease=None if lease is None else to_duration(lease, "lease"),
            attempt_id=_new_id("at", 4),
        )
        response = await self._call(self._api.start_rollout, request)
        return await self._attempted(response.rollout, response.attempt)

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
        wanted = _wanted(input, mode, resources_id, config, metadata, rollout_id)
        return (await self.enqueue_many_rollouts([wanted]))[0]

    async def enqueue_many_rollouts(self, rollouts: Sequence[EnqueueRolloutRequest]) -> Sequence[Rollout]:
        # All of them are encoded before the first is sent, so that a bad one is told while nothing is stored.
        messages = [new_rollout_to_message(wanted, _new_id("ro", 6)) for wanted in rollouts]
        enqueued: list[Rollout] = []
        for portion in _portions(messages):
            request = v1.EnqueueRolloutsRequest(rollouts=portion)
            response = await self._call(self._api.enqueue_rollouts, request)
            enqueued.extend([_decoded(rollout_from_message, rollout) for rollout in response.rollouts])
        return enqueued

    async def dequeue_rollout(
        self, worker_id: str | None = None, *, wait: float | None = None, lease: float | None = None
    ) -> AttemptedRollout | None:
        claimed = await self.dequeue_many_rollouts(limit=1, worker_id=worker_id, wait=wait, lease=lease)
        return claimed[0] if claimed else None

    async def dequeue_many_rollouts(
        self,
        *,
        limit: int = 1,
        worker_id: str | None = None,
        wait: float | None = None,
        lease: float | None = None,
    ) -> Sequence[AttemptedRollout]:
        return (await self._claim(limit, worker_id, wait, lease)).rollouts

    async def claim_rollouts(
        self,
        *,
        limit: int = 1,
        worker_id: str | None = None,
        wait: float | None = None,
        lease: float | None = None,
        known_resources: Sequence[tuple[str, int]] = (),
    ) -> ClaimedRollouts:
        return await self._claim(limit, worker_id, wait, lease, known_resources)

    async def release_attempts(self, attempts: Sequence[tuple[str, str]]) -> Sequence[tuple[str, str]]:
        released: list[tuple[str, str]] = []
        for start in range(0, len(attempts), MOST_ITEMS):
            keys = _attempt_keys(attempts[start : start + MOST_ITEMS])
            response = await self._call(self._api.release_attempts, v1.ReleaseAttemptsRequest(attempts=keys))
            released.extend([(key.rollout_id, key.attempt_id) for key in response.released])
        return released

    async def start_attempt(
        self, rollout_id: str, worker_id: str | None = None, *, lease: float | None = None
    ) -> AttemptedRollout:
        request = v1.StartAttemptRequest(
            rollout_id=rollout_id,
            attempt_id=_new_id("at", 4),
            worker_id=worker_id or "",
            lease=None if lease is None else to_duration(lease, "lease"),
        )
        response = await self._call(self._api.start_attempt, request)
        return await self._attempted(response.rollout, response.attempt)

    async def add_span(self, span: Span) -> Span | None:
        stored = await self.add_many_spans([span])
        return stored[0] if stored else None

    async def add_many_spans(self, spans: Sequence[Span]) -> Sequence[Span]:
        stored: list[Span] = []
        waiting = iter(spans)
        for request, count in add_spans_requests(spans, _BATCH_BYTES):
            response = await self._call(self._api.add_spans, request)
            duplicates = set(response.duplicates)
            for index, sequence_id in enumerate(response.sequence_ids):
                span = next(waiting)
                if index in duplicates:
                    continue
                if span.sequence_id != sequence_id:
                    span = span.model_copy(update={"sequence_id": sequence_id})
                stored.append(span)
            assert count == len(response.sequence_ids)
        return stored

    async def add_otel_span(
        self, rollout_id: str, attempt_id: str, readable_span: ReadableSpan, sequence_id: int | None = None
    ) -> Span | None:
        return await self.add_span(Span.from_opentelemetry(readable_span, rollout_id, attempt_id, sequence_id or 0))

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
    ) -> PaginatedResult[Rollout]:
        status_in = _renamed("status", status, "status_in", status_in)
        rollout_id_in = _renamed("rollout_ids", rollout_ids, "rollout_id_in", rollout_id_in)
        wanted = v1.RolloutFilter(
            status_in=_status_set(status_in),
            rollout_id_in=_id_set(rollout_id_in, "rollout_id_in"),
            rollout_id_contains=rollout_id_contains,
            logic=_logic(filter_logic),
        )
        return await _collect(partial(self._rollout_page, wanted), MOST_ITEMS, sort_by, sort_order, limit, offset)

    def iter_rollouts(
        self,
        *,
        status_in: Sequence[RolloutStatus] | None = None,
        rollout_id_in: Sequence[str] | None = None,
        rollout_id_contains: str | None = None,
        mode_in: Sequence[RolloutMode] | None = None,
        sort_by: str | None = None,
        sort_order: Literal["asc", "desc"] = "asc",
    ) -> AsyncGenerator[Rollout, None]:
        """Yields the rollouts that match every condition, and holds one page of them at a time.

        Close it (`contextlib.aclosing`) when you leave it early.

        Args:
            status_in: Statuses to match; `None` matches all, an empty list nothing.
            rollout_id_in: Ids to match.
            rollout_id_contains: Part of the id to match.
            mode_in: Modes to match.
            sort_by: As for `query_rollouts`; `None` is the order of creation.
            sort_order: Rising or falling.
        """
        wanted = v1.RolloutFilter(
            status_in=_status_set(status_in),
            rollout_id_in=_id_set(rollout_id_in, "rollout_id_in"),
            rollout_id_contains=rollout_id_contains,
            mode_in=None if mode_in is None else v1.RolloutModeSet(values=[mode_to_message(mode) for mode in mode_in]),
        )
        return _items(partial(self._rollout_page, wanted), _first_page(sort_by, sort_order))

    async def query_attempts(
        self,
        rollout_id: str,
        *,
        sort_by: str | None = "sequence_id",
        sort_order: Literal["asc", "desc"] = "asc",
        limit: int = -1,
        offset: int = 0,
    ) -> PaginatedResult[Attempt]:
        async def ask(page: v1.Page) -> tuple[list[Attempt], v1.PageInfo]:
            request = v1.ListAttemptsRequest(rollout_id=rollout_id, page=page)
            response = await self._call(self._api.list_attempts, request)
            return [_decoded(attempt_from_message, attempt) for attempt in response.attempts], response.page_info

        return await _collect(ask, MOST_ITEMS, sort_by, sort_order, limit, offset)

    async def get_rollout_by_id(self, rollout_id: str) -> Rollout | None:
        response = await self._find(self._api.get_rollout, v1.GetRolloutRequest(rollout_id=rollout_id))
        return None if response is None else _decoded(rollout_from_message, response.rollout)

    async def get_latest_attempt(self, rollout_id: str) -> Attempt | None:
        response = await self._find(self._api.get_latest_attempt, v1.GetLatestAttemptRequest(rollout_id=rollout_id))
        return None if response is None else _decoded(attempt_from_message, response.attempt)

    async def query_resources(
        self,
        *,
        resources_id: str | None = None,
        resources_id_contains: str | None = None,
        sort_by: str | None = None,
        sort_order: Literal["asc", "desc"] = "asc",
        limit: int = -1,
        offset: int = 0,
    ) -> PaginatedResult[ResourcesUpdate]:
        async def ask(page: v1.Page) -> tuple[list[ResourcesUpdate], v1.PageInfo]:
            request = v1.ListResourcesRequest(
                resources_id=resources_id, resources_id_contains=resources_id_contains, page=page
            )
            response = await self._call(self._api.list_resources, request)
            return [resources_from_message(resources) for resources in response.resources], response.page_info

        return await _collect(ask, MOST_ITEMS, sort_by, sort_order, limit, offset)

    async def get_resources_by_id(self, resources_id: str) -> ResourcesUpdate | None:
        response = await self._find(self._api.get_resources, v1.GetResourcesRequest(resources_id=resources_id))
        return None if response is None else resources_from_message(response.resources)

    async def get_latest_resources(self) -> ResourcesUpdate | None:
        response = await self._find(self._api.get_latest_resources, v1.GetLatestResourcesRequest())
        return None if response is None else resources_from_message(response.resources)

    async def get_next_span_sequence_id(self, rollout_id: str, attempt_id: str) -> int:
        return (await self.get_many_span_sequence_ids([(rollout_id, attempt_id)]))[0]

    async def get_many_span_sequence_ids(self, rollout_attempt_ids: Sequence[tuple[str, str]]) -> Sequence[int]:
        request = v1.ReserveSpanSequenceIdsRequest(
            reservations=[v1.SequenceIdReservation(attempt=key, count=1) for key in _attempt_keys(rollout_attempt_ids)]
        )
        response = await self._call(self._api.reserve_span_sequence_ids, request)
        return list(response.first_sequence_ids)

    async def wait_for_rollouts(self, *, rollout_ids: list[str], timeout: float | None = None) -> list[Rollout]:
        finished: dict[str, Rollout] = {}
        async with aclosing(self._finished(rollout_ids, timeout)) as messages:
            async for message in messages:
                finished[message.rollout_id] = _decoded(rollout_from_message, message)
        return [finished[rollout_id] for rollout_id in dict.fromkeys(rollout_ids) if rollout_id in finished]

    async def wait_iter(
        self, *, rollout_ids: Sequence[str], timeout: float | None = None
    ) -> AsyncGenerator[Rollout, None]:
        async with aclosing(self._finished(rollout_ids, timeout)) as messages:
            async for message in messages:
                yield _decoded(rollout_from_message, message)

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
    ) -> PaginatedResult[Span]:
        wanted = v1.SpanFilter(
            trace_id=trace_id,
            trace_id_contains=trace_id_contains,
            span_id=span_id,
            span_id_contains=span_id_contains,
            parent_id=parent_id,
            parent_id_contains=parent_id_contains,
            name=name,
            name_contains=name_contains,
            logic=_logic(filter_logic),
        )

        ask = partial(self._span_page, rollout_id, attempt_id or "", wanted)
        return await _collect(ask, MOST_SPANS, sort_by, sort_order, limit, offset)

    def iter_spans(self, rollout_id: str, attempt_id: str | None = None) -> AsyncGenerator[Span, None]:
        """Yields the spans of a rollout in their order, and holds one page of them at a time.

        Close it (`contextlib.aclosing`) when you leave it early.

        Args:
            rollout_id: The rollout; an unknown one has no spans.
            attempt_id: One attempt, `latest` for the last one, or `None` for all.

        Raises:
            RuntimeError: A memory store has dropped spans of it to keep its bound.
        """
        ask = partial(self._span_page, rollout_id, attempt_id or "", v1.SpanFilter())
        return _items(ask, _first_page("sequence_id", "asc"))

    async def add_resources(self, resources: NamedResources) -> ResourcesUpdate:
        request = v1.AddResourcesRequest(resources_id=_new_id("rs", 6), resources=resources_to_messages(resources))
        return resources_from_message((await self._call(self._api.add_resources, request)).resources)

    async def update_resources(self, resources_id: str, resources: NamedResources) -> ResourcesUpdate:
        request = v1.UpdateResourcesRequest(resources_id=resources_id, resources=resources_to_messages(resources))
        return resources_from_message((await self._call(self._api.update_resources, request)).resources)

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
        request = v1.UpdateRolloutRequest(
            rollout_id=rollout_id,
            input=None if isinstance(input, Unset) else to_payload(input, "input"),
            mode=None if isinstance(mode, Unset) else mode_to_message(mode),
            # Empty takes them away.
            resources_id=None if isinstance(resources_id, Unset) else resources_id or "",
            status=None if isinstance(status, Unset) else ROLLOUT_STATUS.number(status),
            config=None if isinstance(config, Unset) else config_to_message(config),
            metadata=None if isinstance(metadata, Unset) else object_to_payload(metadata, "metadata"),
        )
        return _decoded(rollout_from_message, (await self._call(self._api.update_rollout, request)).rollout)

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
        request = v1.UpdateAttemptRequest(
            rollout_id=rollout_id,
            attempt_id=attempt_id,
            status=None if isinstance(status, Unset) else ATTEMPT_STATUS.number(status),
            # Empty takes it away.
            worker_id=None if isinstance(worker_id, Unset) else worker_id or "",
            last_heartbeat_time=None
            if isinstance(last_heartbeat_time, Unset)
            else to_timestamp(last_heartbeat_time, "last_heartbeat_time"),
            metadata=None if isinstance(metadata, Unset) else object_to_payload(metadata, "metadata"),
            failure=None if isinstance(failure, Unset) else failure_to_message(failure),
        )
        return _decoded(attempt_from_message, (await self._call(self._api.update_attempt, request)).attempt)

    async def delete_rollouts(
        self, *, rollout_ids: Sequence[str] | None = None, status_in: Sequence[RolloutStatus] | None = None
    ) -> Sequence[str]:
        deleted: list[str] = []
        for ids in [None] if rollout_ids is None else _id_windows(rollout_ids, "rollout_ids"):
            request = v1.DeleteRolloutsRequest(
                rollout_id_in=None if ids is None else v1.StringSet(values=ids), status_in=_status_set(status_in)
            )
            remaining = True
            while remaining:
                response = await self._call(self._api.delete_rollouts, request)
                deleted.extend(response.deleted_rollout_ids)
                remaining = response.remaining
        return deleted

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
    ) -> PaginatedResult[Worker]:
        wanted = v1.WorkerFilter(
            status_in=None
            if status_in is None
            else v1.WorkerStatusSet(values=[WORKER_STATUS.number(status) for status in status_in]),
            worker_id_contains=worker_id_contains,
            logic=_logic(filter_logic),
        )

        async def ask(page: v1.Page) -> tuple[list[Worker], v1.PageInfo]:
            response = await self._call(self._api.list_workers, v1.ListWorkersRequest(filter=wanted, page=page))
            return [worker_from_message(worker) for worker in response.workers], response.page_info

        return await _collect(ask, MOST_ITEMS, sort_by, sort_order, limit, offset)

    async def get_worker_by_id(self, worker_id: str) -> Worker | None:
        response = await self._find(self._api.get_worker, v1.GetWorkerRequest(worker_id=worker_id))
        return None if response is None else worker_from_message(response.worker)

    async def update_worker(
        self,
        worker_id: str,
        heartbeat_stats: dict[str, Any] | Unset = UNSET,
        *,
        held: Sequence[tuple[str, str]] = (),
        draining: bool | Unset = UNSET,
    ) -> CommandedWorker:
        request = v1.UpdateWorkerRequest(
            worker_id=worker_id,
            heartbeat_stats=None
            if isinstance(heartbeat_stats, Unset)
            else object_to_payload(heartbeat_stats, "heartbeat_stats"),
            held_attempts=_attempt_keys(held),
            draining=None if isinstance(draining, Unset) else draining,
        )
        response = await self._call(self._api.update_worker, request)
        return commanded_worker_from_message(response.worker, response.commands)

    async def _call(self, method: Callable[[CallContext, Request], Awaitable[Response]], request: Request) -> Response:
        """Makes a call; what is wrong with the call itself is a `ValueError`, as callers of this API expect."""
        try:
            return await method(self._context, request)
        except (AlreadyExists, InvalidArgument, NotFound) as error:
            # A misspelt experiment must not pass for a missing rollout.
            if error.reason == "EXPERIMENT_NOT_FOUND":
                raise
            raise ValueError(error.message) from error

    async def _find(
        self, method: Callable[[CallContext, Request], Awaitable[Response]], request: Request
    ) -> Response | None:
        """Makes a call for one thing; `None` if there is no such thing."""
        try:
            return await method(self._context, request)
        except NotFound as error:
            if error.reason == "EXPERIMENT_NOT_FOUND":
                raise
            return None

    async def _claim(
        self,
        limit: int,
        worker_id: str | None,
        wait: float | None,
        lease: float | None,
        known_resources: Sequence[tuple[str, int]] | None = None,
    ) -> ClaimedRollouts:
        """Claims rollouts; a wait that is longer than one call may last takes several calls."""
        loop = asyncio.get_running_loop()
        end = loop.time() + max(0.0, wait or 0.0)
        request = v1.DequeueRolloutsRequest(
            limit=max(0, min(limit, MOST_ITEMS)),
            worker_id=worker_id or "",
            claim_id=uuid.uuid4().hex,
            lease=None if lease is None else to_duration(lease, "lease"),
            with_resources=known_resources is not None,
            known_resources=[
                v1.ResourcesVersion(resources_id=resources_id, version=version)
                for resources_id, version in known_resources or ()
            ],
        )
        while True:
            left = end - loop.time()
            request.wait.CopyFrom(to_duration(min(max(0.0, left), _LONGEST_POLL), "wait"))
            response = await self._call(self._api.dequeue_rollouts, request)
            if response.claims or response.draining or limit <= 0 or left <= _LONGEST_POLL:
                return await self._claimed(response)

    async def _claimed(self, response: v1.DequeueRolloutsResponse) -> ClaimedRollouts:
        """Decodes claims, all or none: when one cannot be decoded, the others go back to the queue."""
        try:
            return ClaimedRollouts.model_construct(
                rollouts=[await self._attempted(claim.rollout, claim.attempt) for claim in response.claims],
                resources=[resources_from_message(resources) for resources in response.resources],
                draining=response.draining,
            )
        except CodecError:
            await self.release_attempts(
                [(claim.attempt.rollout_id, claim.attempt.attempt_id) for claim in response.claims]
            )
            raise

    async def _attempted(self, rollout: v1.Rollout, attempt: v1.Attempt) -> AttemptedRollout:
        """Decodes a rollout that this side is to run; when that fails, the attempt has failed."""
        try:
            return _decoded(attempted_rollout_from_message, rollout, attempt)
        except CodecError as error:
            # Nobody else knows of the attempt, and without a lease it would stay as it is for ever.
            request = v1.UpdateAttemptRequest(
                rollout_id=attempt.rollout_id,
                attempt_id=attempt.attempt_id,
                status=v1.ATTEMPT_STATUS_FAILED,
                failure=v1.AttemptFailure(kind=v1.ATTEMPT_FAILURE_KIND_INFRASTRUCTURE, message=str(error)),
            )
            await self._call(self._api.update_attempt, request)
            raise

    async def _rollout_page(self, wanted: v1.RolloutFilter, page: v1.Page) -> tuple[list[Rollout], v1.PageInfo]:
        request = v1.ListRolloutsRequest(filter=wanted, page=page)
        response = await self._call(self._api.list_rollouts, request)
        return [_decoded(rollout_from_message, rollout) for rollout in response.rollouts], response.page_info

    async def _span_page(
        self, rollout_id: str, attempt_id: str, wanted: v1.SpanFilter, page: v1.Page
    ) -> tuple[list[Span], v1.PageInfo]:
        request = v1.ListSpansRequest(rollout_id=rollout_id, attempt_id=attempt_id, filter=wanted, page=page)
        response = await self._call(self._api.list_spans, request)
        if response.evicted_spans:
            raise RuntimeError(f"Spans for rollout {rollout_id} have been evicted")
        return spans_from_messages(response.resource_spans), response.page_info

    def _finished(self, rollout_ids: Sequence[str], timeout: float | None) -> AsyncGenerator[v1.Rollout, None]:
        """Yields the rollouts as they finish, until none is left or the time is up."""
        end = math.inf if timeout is None else asyncio.get_running_loop().time() + max(0.0, timeout)
        waits = [self._finished_of(window, end) for window in _id_windows(rollout_ids, "rollout_ids")]
        return waits[0] if len(waits) == 1 else _merged(waits)

    async def _finished_of(self, rollout_ids: list[str], end: float) -> AsyncGenerator[v1.Rollout, None]:
        """Yields what finishes of as many rollouts as a call takes, until none is left or the time `end` has come."""
        loop = asyncio.get_running_loop()
        pending = dict.fromkeys(rollout_ids)
        budgets = Budgets(_OUTAGES, was_connected=True)
        fault: StoreError = DeadlineExceeded("The store did not answer in time.", reason="DEADLINE_EXCEEDED")
        was_heard = False
        limit = end + _GRACE
        try:
            while pending:
                left = max(0.0, end - loop.time())
                request = v1.WaitForRolloutsRequest(
                    rollout_ids=pending, timeout=None if left == math.inf else to_duration(left, "timeout")
                )
                try:
                    async with aclosing(self._api.wait_for_rollouts(self._context, request)) as messages:
                        while (message := await _before(limit, anext(messages, None))) is not None:
                            was_heard = True
                            event = message.WhichOneof("event")
                            if event == "finished":
                                pending.pop(message.finished.rollout_id, None)
                                yield message.finished
                            elif event == "not_found_rollout_id":
                                pending.pop(message.not_found_rollout_id, None)
                            elif event == "done":
                                return
                            budgets = Budgets(_OUTAGES, was_connected=True)
                            # Not the time that passed over there: what has finished by the end comes, however late.
                            limit = max(end, loop.time()) + _GRACE
                except (AlreadyExists, InvalidArgument) as error:
                    raise ValueError(error.message) from error
                except (ResourceExhausted, Unavailable) as error:
                    fault = error
                    delay = budgets.delay_after(error)
                    if delay is None:
                        raise
                    await _before(limit, asyncio.sleep(delay))
                    # A call of its own, because the api repeats those as long as there is hope, and raises then.
                    await _before(limit, self._call(self._api.get_statistics, v1.GetStatisticsRequest()))
        except asyncio.TimeoutError:
            if not was_heard:
                raise fault from None


async def _before(limit: float, awaitable: Awaitable[Item]) -> Item:
    """Awaits until the time `limit` of the event loop; raises `asyncio.TimeoutError` then."""
    left = limit - asyncio.get_running_loop().time()
    if left == math.inf:
        return await awaitable
    # Not asyncio.wait_for: before Python 3.12 it swallows a cancellation that comes with the result.
    task = asyncio.ensure_future(awaitable)
    try:
        await asyncio.wait({task}, timeout=max(0.0, left))
        if not task.done():
            raise asyncio.TimeoutError
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def _merged(sources: Sequence[AsyncGenerator[Item, None]]) -> AsyncGenerator[Item, None]:
    """Yields what any of the sources yields, as it comes."""
    upcoming = {asyncio.ensure_future(anext(source, None)): source for source in sources}
    try:
        while upcoming:
            done, _ = await asyncio.wait(upcoming, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                source = upcoming.pop(task)
                item = task.result()
                if item is not None:
                    upcoming[asyncio.ensure_future(anext(source, None))] = source
                    yield item
    finally:
        for task in upcoming:
            task.cancel()
        await asyncio.gather(*upcoming, return_exceptions=True)
        for source in sources:
            await source.aclose()


def _first_page(sort_by: str | None, sort_order: str) -> v1.Page:
    if sort_order not in ("asc", "desc"):
        raise ValueError(f"sort_order must be asc or desc, not {sort_order!r}")
    return v1.Page(order_by=sort_by or "", descending=sort_order == "desc")


async def _items(ask: AskForPage[Item], page: v1.Page) -> AsyncGenerator[Item, None]:
    """Yields the items of a page and of those that follow it, which are asked for one by one."""
    page.page_size = _ITER_PAGE
    while True:
        found, info = await ask(page)
        for item in found:
            yield item
        if not info.next_page_token:
            return
        page.page_token = info.next_page_token


async def _collect(
    ask: AskForPage[Item],
    most: int,
    sort_by: str | None,
    sort_order: str,
    limit: int,
    offset: int,
) -> PaginatedResult[Item]:
    """Asks for as many pages as it takes; `most` is the most that one may have."""
    takes_all = limit < 0
    items: list[Item] = []
    page = _first_page(sort_by, sort_order)
    page.skip = offset
    # Whoever takes all from the start on sees how many there are.
    page.with_total_size = not takes_all or offset > 0
    total: int | None = None
    while True:
        page.page_size = most if takes_all else max(1, min(limit - len(items), most))
        found, info = await ask(page)
        items.extend(found)
        if info.HasField("total_size"):
            total = info.total_size
        if not info.next_page_token or (not takes_all and len(items) >= limit):
            break
        page.page_token = info.next_page_token
        page.with_total_size = False
    if limit == 0:
        items.clear()
    return PaginatedResult.model_construct(
        items=items, limit=limit, offset=offset, total=len(items) if total is None else total
    )


def _new_id(prefix: str, size: int) -> str:
    return f"{prefix}-{secrets.token_hex(size)}"


def _wanted(
    input: TaskInput,
    mode: RolloutMode | None,
    resources_id: str | None,
    config: RolloutConfig | None,
    metadata: dict[str, Any] | None,
    rollout_id: str | None,
) -> EnqueueRolloutRequest:
    # Without validation: the codec checks each of them when it encodes it.
    return EnqueueRolloutRequest.model_construct(
        input=input, mode=mode, resources_id=resources_id, config=config, metadata=metadata, rollout_id=rollout_id
    )


def _portions(messages: list[v1.NewRollout]) -> Iterator[list[v1.NewRollout]]:
    portion: list[v1.NewRollout] = []
    size = 0
    for message in messages:
        message_size = message.ByteSize()
        if portion and (len(portion) == MOST_ITEMS or size + message_size > _BATCH_BYTES):
            yield portion
            portion = []
            size = 0
        portion.append(message)
        size += message_size
    if portion:
        yield portion


def _decoded(decode: Callable[..., Item], *messages: Any) -> Item:
    """Decodes a rollout, an attempt or both; an error names the rollout."""
    try:
        return decode(*messages)
    except CodecError as error:
        raise CodecError(f"Rollout {messages[0].rollout_id}: {error}") from error


def _attempt_keys(attempts: Sequence[tuple[str, str]]) -> list[v1.AttemptKey]:
    return [v1.AttemptKey(rollout_id=rollout_id, attempt_id=attempt_id) for rollout_id, attempt_id in attempts]


def _status_set(statuses: Sequence[RolloutStatus] | None) -> v1.RolloutStatusSet | None:
    if statuses is None:
        return None
    return v1.RolloutStatusSet(values=[ROLLOUT_STATUS.number(status) for status in statuses])


def _id_set(ids: Sequence[str] | None, name: str) -> v1.StringSet | None:
    return None if ids is None else v1.StringSet(values=_ids(ids, name))


def _ids(ids: Sequence[str], name: str) -> Sequence[str]:
    if isinstance(ids, str):
        raise TypeError(f"{name} must be a list of ids, not the string {ids!r}")
    return ids


def _id_windows(ids: Sequence[str], name: str) -> Iterator[list[str]]:
    """Yields ids without repetition, as many at a time as a call takes; no ids are one empty list."""
    unique = list(dict.fromkeys(_ids(ids, name)))
    for start in range(0, max(1, len(unique)), MOST_IDS):
        yield unique[start : start + MOST_IDS]


def _logic(logic: str) -> v1.FilterLogic.ValueType:
    if logic == "and":
        return v1.FILTER_LOGIC_AND
    if logic == "or":
        return v1.FILTER_LOGIC_OR
    raise ValueError(f"filter_logic must be and or or, not {logic!r}")


def _renamed(
    old: str, old_value: Sequence[Any] | None, new: str, new_value: Sequence[Any] | None
) -> Sequence[Any] | None:
    if old_value is None:
        return new_value
    warnings.warn(f"{old}= of query_rollouts is deprecated; it is {new}= now", DeprecationWarning, stacklevel=3)
    return old_value if new_value is None else new_value
