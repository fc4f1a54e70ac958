"""The engine: the rules of the store over a storage."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar

from google.protobuf.message import Message

from agentlightning.store.api import DEFAULT_EXPERIMENT, LONGEST_POLL, MAX_MESSAGE_BYTES, CallContext
from agentlightning.store.engine import attempts, experiments, messages, resources, rollouts, spans, streams, workers
from agentlightning.store.engine.retention import EVERY_EXPERIMENT, Due, Retention, prune
from agentlightning.store.engine.scope import Scope, SpanBound
from agentlightning.store.engine.transitions import restart_watch, watch
from agentlightning.store.engine.waiting import Waiters
from agentlightning.store.engine.watchdog import Watchdog
from agentlightning.store.errors import ResourceExhausted, StoreError
from agentlightning.store.storage.base import Storage
from agentlightning.store.storage.clock import Clock
from agentlightning.store.storage.signals import Signal
from agentlightning.store.storage.tx import Tx
from lightning_store import v1

logger = logging.getLogger(__name__)

Q = TypeVar("Q", bound=Message)
A = TypeVar("A")

_WATCHED_AT_ONCE = 200
_PAUSE_FOR_OTHERS = messages.SECOND // 10
_PAUSE_AFTER_FAILURE = 10 * messages.SECOND


def _first(moments: Iterable[int | None]) -> int | None:
    return min((moment for moment in moments if moment is not None), default=None)


@cache
def _release() -> str:
    try:
        return version("agentlightning-grpc")
    except PackageNotFoundError:  # a checkout on the path, not installed
        return "unknown"


class Engine:
    """Implements `StoreApi` over a storage. Safe to call from any thread and any event loop.

    Args:
        storage: Where the rows live; closed with the engine.
        span_bound: Bytes of spans to keep; None never drops any.
        retention: How long finished rollouts are kept; None keeps them for ever.
        clock: Tells the time; for tests.
        watches: False leaves it to the caller to call `look_after_attempts`; for tests.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        span_bound: SpanBound | None = None,
        retention: Retention | None = None,
        clock: Clock | None = None,
        watches: bool = True,
    ) -> None:
        self.storage = storage
        self.max_message_bytes = MAX_MESSAGE_BYTES
        self._span_bound = span_bound
        self._retention = retention
        self._clock = clock or storage.clock
        self._start_time = self._clock.now()
        self._instance_id = uuid.uuid4().hex
        self._waiters = Waiters()
        self._due = Due()
        self._watch_term: int | None = None
        self._watchdog = Watchdog(self.look_after_attempts) if watches else None
        try:
            storage.run_blocking(lambda tx: experiments.ensure(tx, DEFAULT_EXPERIMENT, self._start_time))
            self._take_watch()
        except BaseException:
            storage.close()
            raise
        storage.on_commit(self._tell)
        if self._watchdog is not None:
            next_look = self.look_after_attempts()
            if next_look is not None:
                self._watchdog.expect(next_look)

    def close(self) -> None:
        """End all waits and let go of the storage."""
        self.drain()
        if self._watchdog is not None:
            self._watchdog.close()
        self.storage.close()

    def drain(self) -> None:
        """End all waits, now and from now on, with `Unavailable`; other calls still work."""
        self._waiters.close()

    def look_after_attempts(self) -> float | None:
        """End the attempts that have exceeded a limit, delete the rollouts that are kept no longer, and forget old
        deletions, unless another server does.

        Returns:
            Seconds until this must be called again, None when there is nothing to watch.
        """
        if not self._take_watch():
            return None
        next_look = _first([self.storage.run_blocking(self._look), self._prune()])
        return None if next_look is None else max(0.0, (next_look - self._clock.now()) / messages.SECOND)

    def _take_watch(self) -> bool:
        """Tell whether it is for this server to look after the attempts; silence counts from when it begins to."""
        term = self.storage.watch_term()
        if term is not None and term != self._watch_term:
            key: int | None = 0
            while key is not None:
                key = self.storage.run_blocking(partial(self._restart_watch, after=key))
            self._watch_term = term
        return term is not None

    def _restart_watch(self, tx: Tx, after: int) -> int | None:
        """Restart the watch of some attempts; return the key of the last one, None when there are no more."""
        watched = tx.watched_attempts(after, _WATCHED_AT_ONCE)
        for attempt in watched:
            scope = self._scope(tx, tx.experiment_by_key(attempt.experiment).name, creates=False)
            restart_watch(scope, tx.rollout_by_key(attempt.rollout), attempt)
        return watched[-1].key if watched else None

    def _look(self, tx: Tx) -> int | None:
        now = self._clock.now()
        due = tx.due_attempts(now, _WATCHED_AT_ONCE)
        for attempt in due:
            scope = Scope(tx, tx.experiment_by_key(attempt.experiment), now, self._span_bound)
            watch(scope, tx.rollout_by_key(attempt.rollout), attempt)
        tx.forget_tombstones(tx.old_tombstones(now - rollouts.TOMBSTONE_LIFE, _WATCHED_AT_ONCE))
        oldest = tx.oldest_tombstone()
        expiry = tx.next_expiry()
        if expiry is not None and not due:  # what is due already, others are changing just now
            expiry = max(expiry, now + _PAUSE_FOR_OTHERS)
        return _first([expiry, None if oldest is None else oldest + rollouts.TOMBSTONE_LIFE + 1])

    def _prune(self) -> int | None:
        """Delete rollouts that are kept no longer, some of each experiment that is due in a transaction of its own."""
        if self._retention is None:
            return None
        now = self._clock.now()
        due = self._due.take(now)
        try:
            names = self.storage.run_blocking(experiments.names) if due else {}
        except BaseException:
            self._due.expect(EVERY_EXPERIMENT, now)
            raise
        for key, name in names.items():
            if not due.isdisjoint((EVERY_EXPERIMENT, key)):
                try:
                    moment = self.storage.run_blocking(partial(self._prune_one, name=name, retention=self._retention))
                except Exception:
                    logger.exception("Experiment %s keeps rollouts that are to be deleted; it is tried again.", name)
                    moment = now + _PAUSE_AFTER_FAILURE
                if moment is not None:
                    self._due.expect(key, moment)
        return self._due.first()

    def _prune_one(self, tx: Tx, name: str, retention: Retention) -> int | None:
        row = tx.experiment(name)
        return None if row is None else prune(Scope(tx, row, self._clock.now()), retention)

    def _tell(self, signals: list[Signal]) -> None:
        deadlines = [signal.value for signal in signals if signal.topic == "deadline"]
        ended_in = {signal.experiment for signal in signals if signal.topic in ("rollout", "everything")}
        if self._retention is not None and ended_in:
            deadlines.append(self._clock.now() + self._retention.pause)
            for experiment in ended_in:
                self._due.expect(experiment, deadlines[-1])
        if self._watchdog is not None and deadlines:
            self._watchdog.expect(max(0.0, (min(deadlines) - self._clock.now()) / messages.SECOND))
        self._waiters.tell(signals)

    def _scope(self, tx: Tx, name: str, *, creates: bool) -> Scope:
        now = self._clock.now()
        experiment = experiments.ensure(tx, name, now) if creates else experiments.existing(tx, name)
        return Scope(tx, experiment, now, self._span_bound)

    async def _write(
        self, context: CallContext, rule: Callable[[Scope, Q], A], request: Q, *, creates: bool = False
    ) -> A:
        def work(tx: Tx) -> A:
            return rule(self._scope(tx, context.experiment, creates=creates), request)

        try:
            return await self.storage.run(work)
        except ResourceExhausted as error:
            if (
                error.reason != "STORAGE_FULL"
                or self._span_bound is None
                or not await self.storage.run(spans.make_room)
            ):
                raise
            return await self.storage.run(work)

    def _read(self, context: CallContext, rule: Callable[[Scope, Q], A], request: Q) -> Awaitable[A]:
        return self.storage.read(lambda tx: rule(self._scope(tx, context.experiment, creates=False), request))

    def _reader(self, context: CallContext) -> streams.Reader:
        experiment: int | None = None

        def read(rule: Callable[[Scope], A]) -> Awaitable[A]:
            def work(tx: Tx) -> A:
                nonlocal experiment
                scope = self._scope(tx, context.experiment, creates=False)
                experiments.check_same(scope.experiment, experiment)
                experiment = scope.experiment.key
                return rule(scope)

            return self.storage.read(work)

        return read

    async def start_rollout(self, context: CallContext, request: v1.StartRolloutRequest) -> v1.StartRolloutResponse:
        return await self._write(context, rollouts.start, request, creates=True)

    async def enqueue_rollouts(
        self, context: CallContext, request: v1.EnqueueRolloutsRequest
    ) -> v1.EnqueueRolloutsResponse:
        return await self._write(context, rollouts.enqueue, request, creates=True)

    async def dequeue_rollouts(
        self, context: CallContext, request: v1.DequeueRolloutsRequest
    ) -> v1.DequeueRolloutsResponse:
        loop = asyncio.get_running_loop()
        wait = min((messages.duration_ns(request, "wait") or 0) / messages.SECOND, LONGEST_POLL)
        end = loop.time() + wait
        response, experiment = await self._claim(context, request, None)
        if wait <= 0 or request.limit <= 0 or response.claims or response.draining:
            return response
        key = ("queue", experiment, "")
        subscription = self._waiters.subscribe([key])
        has_turn = False
        try:
            while True:
                response, _ = await self._claim(context, request, experiment)
                left = end - loop.time()
                if response.claims or response.draining or left <= 0 or not context.is_present():
                    has_turn = has_turn and not response.claims
                    return response
                has_turn = bool(await subscription.wait(left))
        finally:
            subscription.close()
            # A turn that was not used, and one that came while this call was at work, are somebody else's.
            if has_turn or subscription.is_woken:
                self._waiters.pass_on(key)

    async def _claim(
        self, context: CallContext, request: v1.DequeueRolloutsRequest, experiment: int | None
    ) -> tuple[v1.DequeueRolloutsResponse, int]:
        """Claim what there is now, and give it back if the caller goes away meanwhile.

        Args:
            context: The call's.
            request: The claim.
            experiment: Key of the experiment that the call began with; None at its beginning.
        """
        has_gone = False

        def work(tx: Tx) -> tuple[v1.DequeueRolloutsResponse, int]:
            scope = self._scope(tx, context.experiment, creates=False)
            experiments.check_same(scope.experiment, experiment)
            response = rollouts.dequeue(scope, request, lambda: context.is_present() and not has_gone)
            return response, scope.experiment.key

        claiming = self.storage.run(work)
        if not isinstance(claiming, asyncio.Future):  # it runs in place, and cannot be cancelled on the way
            return await claiming
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            has_gone = True
            # Waited for, so that a server that ends does not close the storage before.
            await asyncio.shield(self._give_back(context, claiming))
            raise

    async def _give_back(
        self, context: CallContext, claiming: asyncio.Future[tuple[v1.DequeueRolloutsResponse, int]]
    ) -> None:
        with suppress(StoreError):  # nothing was claimed, or the store is closed
            response, _ = await claiming
            if response.claims:
                await self._write(context, attempts.withdraw, response)

    async def get_rollout(self, context: CallContext, request: v1.GetRolloutRequest) -> v1.GetRolloutResponse:
        return await self._read(context, rollouts.get, request)

    async def list_rollouts(self, context: CallContext, request: v1.ListRolloutsRequest) -> v1.ListRolloutsResponse:
        return await self._read(context, rollouts.list_rollouts, request)

    async def update_rollout(self, context: CallContext, request: v1.UpdateRolloutRequest) -> v1.UpdateRolloutResponse:
        return await self._write(context, rollouts.update, request)

    async def delete_rollouts(
        self, context: CallContext, request: v1.DeleteRolloutsRequest
    ) -> v1.DeleteRolloutsResponse:
        return await self._write(context, rollouts.delete, request)

    def wait_for_rollouts(
        self, context: CallContext, request: v1.WaitForRolloutsRequest
    ) -> AsyncGenerator[v1.WaitForRolloutsResponse, None]:
        return streams.wait_for_rollouts(self._reader(context), self._waiters, request)

    def watch_rollouts(
        self, context: CallContext, request: v1.WatchRolloutsRequest
    ) -> AsyncGenerator[v1.WatchRolloutsResponse, None]:
        return streams.watch_rollouts(self._reader(context), self._waiters, self.storage.store_id, request)

    async def start_attempt(self, context: CallContext, request: v1.StartAttemptRequest) -> v1.StartAttemptResponse:
        return await self._write(context, attempts.start, request)

    async def update_attempt(self, context: CallContext, request: v1.UpdateAttemptRequest) -> v1.UpdateAttemptResponse:
        return await self._write(context, attempts.update, request)

    async def release_attempts(
        self, context: CallContext, request: v1.ReleaseAttemptsRequest
    ) -> v1.ReleaseAttemptsResponse:
        return await self._write(context, attempts.release, request)

    async def list_attempts(self, context: CallContext, request: v1.ListAttemptsRequest) -> v1.ListAttemptsResponse:
        return await self._read(context, attempts.list_attempts, request)

    async def get_latest_attempt(
        self, context: CallContext, request: v1.GetLatestAttemptRequest
    ) -> v1.GetLatestAttemptResponse:
        return await self._read(context, attempts.latest, request)

    async def add_spans(self, context: CallContext, request: v1.AddSpansRequest) -> v1.AddSpansResponse:
        return await self._write(context, spans.add, request)

    async def add_encoded_spans(
        self, context: CallContext, request: v1.AddSpansRequest, bodies: Sequence[bytes]
    ) -> v1.AddSpansResponse:
        """Do what `add_spans` does with spans that are encoded already, in their order."""
        return await self._write(context, partial(spans.add, bodies=bodies), request)

    async def list_spans(self, context: CallContext, request: v1.ListSpansRequest) -> v1.ListSpansResponse:
        return v1.ListSpansResponse.FromString(await self.encoded_list_spans(context, request))

    async def encoded_list_spans(self, context: CallContext, request: v1.ListSpansRequest) -> bytes:
        """Return the answer of `list_spans` as the wire has it: the spans in it need not be parsed to be sent."""
        return await self._read(context, spans.list_spans, request)

    async def reserve_span_sequence_ids(
        self, context: CallContext, request: v1.ReserveSpanSequenceIdsRequest
    ) -> v1.ReserveSpanSequenceIdsResponse:
        return await self._write(context, spans.reserve, request)

    async def add_resources(self, context: CallContext, request: v1.AddResourcesRequest) -> v1.AddResourcesResponse:
        return await self._write(context, resources.add, request, creates=True)

    async def update_resources(
        self, context: CallContext, request: v1.UpdateResourcesRequest
    ) -> v1.UpdateResourcesResponse:
        return await self._write(context, resources.update, request, creates=True)

    async def get_resources(self, context: CallContext, request: v1.GetResourcesRequest) -> v1.GetResourcesResponse:
        return await self._read(context, resources.get, request)

    async def get_latest_resources(
        self, context: CallContext, request: v1.GetLatestResourcesRequest
    ) -> v1.GetLatestResourcesResponse:
        return await self._read(context, resources.latest, request)

    async def list_resources(self, context: CallContext, request: v1.ListResourcesRequest) -> v1.ListResourcesResponse:
        return await self._read(context, resources.list_resources, request)

    def watch_latest_resources(
        self, context: CallContext, request: v1.WatchLatestResourcesRequest
    ) -> AsyncGenerator[v1.WatchLatestResourcesResponse, None]:
        return streams.watch_latest_resources(self._reader(context), self._waiters, request)

    async def update_worker(self, context: CallContext, request: v1.UpdateWorkerRequest) -> v1.UpdateWorkerResponse:
        return await self._write(context, workers.update, request)

    async def get_worker(self, context: CallContext, request: v1.GetWorkerRequest) -> v1.GetWorkerResponse:
        return await self._read(context, workers.get, request)

    async def list_workers(self, context: CallContext, request: v1.ListWorkersRequest) -> v1.ListWorkersResponse:
        return await self._read(context, workers.list_workers, request)

    async def get_server_info(self, context: CallContext, request: v1.GetServerInfoRequest) -> v1.GetServerInfoResponse:
        return v1.GetServerInfoResponse(
            store_id=self.storage.store_id,
            instance_id=self._instance_id,
            server_version=_release(),
            storage=self.storage.kind,
            start_time=messages.timestamp(self._start_time),
            max_message_bytes=self.max_message_bytes,
        )

    async def get_statistics(self, context: CallContext, request: v1.GetStatisticsRequest) -> v1.GetStatisticsResponse:
        response = await self._read(context, experiments.statistics, request)
        response.storage = self.storage.kind
        response.uptime.CopyFrom(messages.duration(self._clock.now() - self._start_time))
        return response

    async def list_experiments(
        self, context: CallContext, request: v1.ListExperimentsRequest
    ) -> v1.ListExperimentsResponse:
        return await self.storage.read(lambda tx: experiments.list_experiments(tx, request))

    async def delete_experiment(
        self, context: CallContext, request: v1.DeleteExperimentRequest
    ) -> v1.DeleteExperimentResponse:
        return await self.storage.run(lambda tx: experiments.delete(tx, request, self._clock.now()))
